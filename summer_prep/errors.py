"""The errors that a user or a file can cause; anything else that is raised is a bug of ours."""


class SummerError(Exception):
    """A problem with data or settings, told in one line: what, where, found, allowed, what to do next."""


class RecordingError(SummerError):
    """An NWB file does not hold what a SUMMER recording must hold."""


class CacheError(SummerError):
    """A cached key is missing, damaged, or written by another version of this software."""


class UnreachableError(SummerError):
    """A bucket cannot be asked: no network, no permission, or an error of its server. Its keys may be right."""


class MissingKeyError(CacheError):
    """There is no such key in the cache."""


class SettingsError(SummerError):
    """A setting that the data at hand does not allow."""
