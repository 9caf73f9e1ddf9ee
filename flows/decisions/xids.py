"""What an Xid number means, and what to do about it. Pure.

Source: NVIDIA "Xid Errors", catalogue and resolution buckets (docs.nvidia.com/deploy/xid-errors).
"""

_RESTART = "restart what ran on it; if it comes back, reset the GPU"
_RESET = "stop what runs on it and reset the GPU (nvidia-smi -r); if it comes back, replace it"
_REBOOT = "reboot the machine; if it comes back, check power, riser and cooling, then replace it"

XIDS: dict[int, tuple[str, str]] = {
    8: ("GPU stopped processing", _RESTART),
    13: ("graphics engine exception: an illegal access of a program, rarely hardware", _RESTART),
    31: ("memory page fault: an illegal access of a program, rarely hardware", _RESTART),
    32: ("invalid or corrupted push buffer", _RESTART),
    43: ("GPU stopped processing: a program's fault", _RESTART),
    45: ("a program's work was cleaned up after another error", "look for the Xid before it"),
    46: ("GPU stopped processing", _RESET),
    48: ("double-bit ECC error: memory contents were lost", _RESET),
    61: ("internal micro-controller breakpoint", _RESET),
    62: ("internal micro-controller halt", _RESET),
    63: ("a faulty memory row was recorded for remapping", "reset the GPU when it is idle"),
    64: ("a faulty memory row could not be remapped", _RESET),
    69: ("graphics engine class error", _RESTART),
    74: ("NVLink error", "reset the GPU; check the NVLink bridge or fabric manager"),
    79: ("GPU has fallen off the bus", _REBOOT),
    92: ("many single-bit ECC errors", "plan to replace the GPU"),
    94: ("contained memory error: only the program that met it is lost", _RESTART),
    95: ("uncontained memory error: every program on this GPU may be wrong", _RESET),
    109: ("context switch timed out", _RESTART),
    110: ("security fault", _REBOOT),
    119: ("GSP firmware does not answer", _RESET),
    120: ("GSP firmware error", _RESET),
    140: ("unrecovered ECC error", _RESET),
    143: ("GPU initialisation failed", _RESET),
    154: ("the driver asks for a recovery action", "see which in dmesg: reset or reboot"),
}
MILD = (45, 63, 92)
"""They tell of a fault that was dealt with, or foretell one: nothing is broken now."""


def meaning(xid: int) -> str:
    """In a few words."""
    return XIDS.get(xid, ("not in our list; see NVIDIA's Xid catalogue", ""))[0]


def remedy(xid: int) -> str:
    """What a person does."""
    return XIDS.get(xid, ("", "look it up in NVIDIA's Xid catalogue; dmesg shows its line"))[1]
