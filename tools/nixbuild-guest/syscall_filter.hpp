#pragma once

/// The system calls that Nix denies to builders, so that outputs can hold neither set-user-id files
/// nor extended attributes. Source: protocol facts 5.2.
namespace nixbuild::guest {

/// For this process and all that it starts: chmod, fchmod, fchmodat and fchmodat2 with a set-id bit
/// fail with EPERM; all calls for extended attributes fail with ENOTSUP. In every ABI that the
/// kernel offers on x86-64 (x32 and i386, too) and arm64. Needs no_new_privs. Error `guest.system`.
void install_syscall_filter();

} // namespace nixbuild::guest
