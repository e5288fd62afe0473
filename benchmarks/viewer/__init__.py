"""How fast the page opens, zooms and drags, measured in a browser, and other pages beside it.

    python -m benchmarks.viewer open     32,768 tokens of 4 x 8 heads; 32 x 32 heads of 2,048 tokens
    python -m benchmarks.viewer zoom     131,072 tokens of one head: zooms, drags, memory
    python -m benchmarks.viewer peers    BertViz and CircuitsVis on 128, 512 and 2,048 tokens (those that are installed)

Records are made once, in --records, and used again. Needs Chromium and Playwright; the peers take their scripts from
the network, and where there is none from --scripts, a folder in which npm installed them.
"""
