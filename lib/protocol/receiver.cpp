#include "protocol/receiver.hpp"

#include <fmt/format.h>

namespace nixbuild::protocol::wire {

void add_place(Error& error, std::string_view message, std::string_view field) {
  error.add_context(fmt::format("{}: {}", message, field));
}

} // namespace nixbuild::protocol::wire
