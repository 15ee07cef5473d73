"""The one error that panorama raises on purpose."""


class PanoramaError(Exception):
    """A problem that a person can solve, told to them.

    The message says what happened, where (file, line or image), what was found and expected, and what to do next.
    The command line prints it as one line; pages show it in a box. Subclass it only where somebody catches the difference.
    """
