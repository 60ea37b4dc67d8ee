#pragma once

#include <cstdint>

namespace nixbuild::store {

/// Error `log.finished`.
[[noreturn]] void throw_log_finished(std::int64_t build);

} // namespace nixbuild::store
