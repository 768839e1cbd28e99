"""The one error whose text a participant may read.

Everything else is internal: it could carry a hidden reference, so containers never show its text.
"""


class ChallengeError(Exception):
    """Bad input or bad usage, told in one line: which file or argument, what was wanted, what came.

    The text must never hold a reference coordinate or a distance to one.
    """
