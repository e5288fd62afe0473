"""Five lessons: what attention does in trained models, each a record and a few steps through it."""

from pellucid.lessons import alignment, induction, needle, previous, sink
from pellucid.lessons.lesson import Lesson, Step

LESSONS = {module.LESSON.name: module.LESSON for module in (sink, previous, induction, alignment, needle)}

__all__ = ["LESSONS", "Lesson", "Step"]
