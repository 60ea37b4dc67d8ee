#pragma once

/// Kernel modules that most builds have no use for: they are loaded when the kernel asks for them,
/// as on any other host, and cost nothing before.
namespace nixbuild::guest {

/// Lets the kernel start this program as its modprobe. `initramfs` holds the modules. Without
/// success there are only those of the boot.
void offer_modules(int initramfs);

/// What this program is when the kernel starts it: loads all modules that are called `name` or have
/// an alias for it, with what they need. Returns the exit status.
[[nodiscard]] int load_on_demand(const char* name);

} // namespace nixbuild::guest
