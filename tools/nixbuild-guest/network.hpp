#pragma once

/// Interfaces of the calling process' network namespace.
namespace nixbuild::guest {

/// 127.0.0.1 and ::1.
void raise_loopback();
/// The first other interface gets the fixed address that the host's network helper expects
/// (sandbox/guest_job.hpp). Does nothing when there is none.
void raise_network();

} // namespace nixbuild::guest
