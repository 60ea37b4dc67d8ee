#pragma once

#include <nixbuild/base/descriptor.hpp>
#include <nixbuild/sandbox/egress.hpp>

#include <cstdint>
#include <vector>

namespace nixbuild::sandbox::runner {

/// IPv4 addresses of this host's interfaces. Error `sandbox.spawn`.
[[nodiscard]] std::vector<std::uint32_t> own_addresses();

/// Carries frames between a guest and the network helper, both connected sockets, until either
/// closes; of the guest's only those that the rules let pass. Holds at most about a MiB in each
/// direction: who does not read is not read from. Errors: `sandbox.network` (a frame's length).
void filter_egress(const UniqueFd& guest, const UniqueFd& helper, const EgressRules& rules);

} // namespace nixbuild::sandbox::runner
