#pragma once

#include "host_link.hpp"

#include <nixbuild/sandbox/guest_job.hpp>

#include <cstdint>
#include <string>

/// A shell where a builder has been.
namespace nixbuild::guest {

/// Starts the builder, where that is a shell, or else /bin/sh, as the builder was started but at a
/// terminal; what it writes goes to the output port as output `index`, and what the host types goes
/// in. Returns when the shell has ended and the host has been told. Errors: `guest.system`.
void serve_terminal(const sandbox::GuestJob& job,
                    const std::string& root,
                    int initramfs,
                    std::uint32_t index,
                    int port,
                    HostLink& host);

} // namespace nixbuild::guest
