"""The one exception that a user's mistake raises."""


class UserError(Exception):
    """A mistake the user can mend: one line that says what is wrong, where, and what to do.

    The command line prints it after ``error:`` and exits with status 2, without a traceback. A programmer's mistake
    raises ``TypeError``/``ValueError``/``RuntimeError`` instead and keeps its traceback.
    """
