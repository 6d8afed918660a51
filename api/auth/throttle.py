"""Throttling of sign-ins and of look-ups of unknown codes, by moving windows in this process's memory."""

from typing import Final

from limits import RateLimitItemPerHour, RateLimitItemPerMinute
from limits.storage import MemoryStorage
from limits.strategies import MovingWindowRateLimiter

from core.errors import Rejected

# By login *and* address: somebody who guesses from elsewhere cannot lock the owner of the login out.
_LOGIN_MINUTE: Final = RateLimitItemPerMinute(5)
_LOGIN_HOUR: Final = RateLimitItemPerHour(20)
_ADDRESS_HOUR: Final = RateLimitItemPerHour(100)
_ONE_TIME_MINUTE: Final = RateLimitItemPerMinute(60)
# A shop's whole staff may sit behind one address: generous, but far below what guessing serials needs.
_UNKNOWN_MINUTE: Final = RateLimitItemPerMinute(60)
# Signed requests of devices and organisations cost a signature check each; a factory's devices share one address.
_SIGNED_MINUTE: Final = RateLimitItemPerMinute(1_200)
_WRONG_CODE_MINUTE: Final = RateLimitItemPerMinute(10)
_WRONG_CODE_HOUR: Final = RateLimitItemPerHour(60)


class Throttled(Rejected):
    """Too many tries; wait a moment."""

    code = "throttled"


class Throttle:
    """The windows of one process."""

    def __init__(self) -> None:
        self._limiter = MovingWindowRateLimiter(MemoryStorage())

    def check_sign_in(self, login: str, address: str) -> None:
        """Count a sign-in about to be tried.

        Raises:
            Throttled: too many tries of this login from this address, or of this address in all.
        """
        key = login.casefold()
        tests = ((_LOGIN_MINUTE, key, address), (_LOGIN_HOUR, key, address), (_ADDRESS_HOUR, "", address))
        if not all(self._limiter.hit(item, "login", *names) for item, *names in tests):
            raise Throttled("Too many tries to sign in; wait a few minutes.")

    def check_one_time(self, address: str) -> None:
        """Count a one-time login about to be tried: 256 random bits are not guessed, so this only limits work.

        Raises:
            Throttled: too many tries of this address.
        """
        if not self._limiter.hit(_ONE_TIME_MINUTE, "once", address):
            raise Throttled("Too many tries to sign in; wait a minute.")

    def check_unknown_codes(self, address: str) -> None:
        """Refuse look-ups from an address that asked for too many codes that do not exist (T14).

        Raises:
            Throttled: it did.
        """
        if not self._limiter.test(_UNKNOWN_MINUTE, "unknown", address):
            raise Throttled("Too many unknown codes from this address; wait a minute.")

    def count_unknown_code(self, address: str) -> None:
        """Count a look-up of a code that does not exist."""
        self._limiter.hit(_UNKNOWN_MINUTE, "unknown", address)

    def check_signed(self, address: str) -> None:
        """Count a signed request (a record, a claim) about to be checked.

        Raises:
            Throttled: too many from this address.
        """
        if not self._limiter.hit(_SIGNED_MINUTE, "signed", address):
            raise Throttled("Too many signed requests from this address; wait a minute.")

    def check_codes(self, address: str) -> None:
        """Refuse claims from an address that has guessed wrong too often.

        Raises:
            Throttled: it has.
        """
        tests = ((_WRONG_CODE_MINUTE, "code-minute"), (_WRONG_CODE_HOUR, "code-hour"))
        if not all(self._limiter.test(item, name, address) for item, name in tests):
            raise Throttled("Too many wrong claim codes from this address; wait.")

    def count_wrong_code(self, address: str) -> None:
        """Count a claim code that does not work."""
        self._limiter.hit(_WRONG_CODE_MINUTE, "code-minute", address)
        self._limiter.hit(_WRONG_CODE_HOUR, "code-hour", address)
