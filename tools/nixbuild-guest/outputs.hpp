#pragma once

#include "host_link.hpp"

#include <nixbuild/sandbox/guest_job.hpp>

#include <string>
#include <vector>

/// What the builder has made.
namespace nixbuild::guest {

/// In the job's order. `store` is the store directory in the guest's own view.
[[nodiscard]] std::vector<sandbox::GuestOutputState> output_states(const sandbox::GuestJob& job,
                                                                   const std::string& store);

/// Writes the archive of an output to its port and tells the host how it went. Errors:
/// `guest.system` of the ports only.
void send_output(const sandbox::GuestJob& job,
                 const std::string& store,
                 std::uint32_t index,
                 int port,
                 HostLink& host);

} // namespace nixbuild::guest
