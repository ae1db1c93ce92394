"""The one exception that a user's mistake raises, and what it says of a package that is missing."""


class UserError(Exception):
    """A mistake the user can mend: one line that says what is wrong, where, and what to do.

    The command line prints it after ``error:`` and exits with status 2, without a traceback. A programmer's mistake
    raises ``TypeError``/``ValueError``/``RuntimeError`` instead and keeps its traceback.
    """


def missing_package(needs: str, package: str, extra: str) -> UserError:
    """What is told where an optional package is missing.

    Args:
        needs: what is wanted, and a verb: ``units need``.
        extra: of scratchlm, which installs the package.
    """
    return UserError(f"{needs} {package}, which is missing; run: pip install 'scratchlm[{extra}]'")
