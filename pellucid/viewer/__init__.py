"""What a person sees: attention in a terminal, in a picture and step by step. It shows readings; it loads no model.

A folder is a way to see it. What is seen, chosen, binned, labelled and told in numbers, is in the files beside them.
"""
