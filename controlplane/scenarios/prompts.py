"""The fixed prompts of the scenarios' clients: few enough that a cache holds them, different enough to be forty keys."""

_SUBJECTS = (
    "a queue",
    "a batch of requests",
    "a response cache",
    "the tail of a latency distribution",
    "a slow replica",
    "a memory leak",
    "a canary release",
    "an error budget",
)
_QUESTIONS = (
    "Explain {} to a new colleague.",
    "When does {} hurt the people who wait?",
    "Name one number that describes {}.",
    "What would you look at first when {} misbehaves?",
    "Write a headline about {}.",
)

ALL = tuple(question.format(subject) for subject in _SUBJECTS for question in _QUESTIONS)
