#include "log_rules.hpp"

#include <nixbuild/base/error.hpp>

#include <fmt/format.h>

namespace nixbuild::store {

void throw_log_finished(std::int64_t build) {
  throw Error(Reaction::Reject,
              "log.finished",
              fmt::format("the log of build {} is finished; nothing can be added", build));
}

} // namespace nixbuild::store
