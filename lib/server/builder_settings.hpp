#pragma once

#include <nixbuild/build/builder.hpp>
#include <nixbuild/server/config.hpp>
#include <nixbuild/server/daemon.hpp>

namespace nixbuild::server {

/// What the configuration says about every build of this machine. Reads the files of certificates,
/// services and credentials that it names. Blocks.
[[nodiscard]] build::BuilderSettings builder_settings(const Config& config,
                                                      const MachineShare& share);

} // namespace nixbuild::server
