"""What all tests share."""

import signal

# A shell that runs the tests in the background has them ignore SIGINT, and every program that they start would inherit
# that; a handler is not inherited.
signal.signal(signal.SIGINT, signal.default_int_handler)
