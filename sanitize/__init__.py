"""Many files, each disarmed, slimmed and proved by a policy, in a process of its own, with a receipt."""
