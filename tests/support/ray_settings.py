"""What tests let Ray read where it is imported, and keep: all of them have to set the same."""

SETTINGS = {
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",  # loopback alone
    "RAY_AUTH_MODE": "token",
    "RAY_AUTH_TOKEN": "0" * 32 + "1" * 32,
}
