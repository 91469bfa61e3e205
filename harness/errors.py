"""The one exception type for mistakes that the user can mend."""


class UserError(Exception):
    """A wrong setting, file or environment; its text names the setting, the value and what is allowed.

    Entry points print it without a traceback and exit with status 2.
    """
