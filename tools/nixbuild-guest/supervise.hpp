#pragma once

#include "builder.hpp"
#include "host_link.hpp"

#include <nixbuild/sandbox/guest_job.hpp>

#include <string>

/// The time between a builder's start and its end.
namespace nixbuild::guest {

/// Moves the builder's terminal to the log port until it ends, kills what is left, and says how it
/// went and what it took, memory that was full in /dev/shm of `root` included; `outputs`,
/// `boot_time` and `mount_time` are left to the caller. A host that goes away, or wants it, powers
/// the machine off.
[[nodiscard]] sandbox::GuestExit
supervise(Builder builder, const std::string& root, int log, HostLink& host);

} // namespace nixbuild::guest
