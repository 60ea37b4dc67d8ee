#include "builtins.hpp"

#include <nixbuild/base/error.hpp>

#include <fmt/format.h>

#include <utility>

namespace nixbuild::builtin {

void fail(std::string message) {
  throw Error(Reaction::Reject, kCode, std::move(message));
}

const std::string& Call::attribute(const std::string& name) const {
  const auto found = attributes.find(name);
  if (found == attributes.end()) {
    fail(fmt::format("attribute '{}' missing", name));
  }
  return found->second;
}

bool Call::on(const std::string& name) const {
  const auto found = attributes.find(name);
  return found != attributes.end() && found->second == "1";
}

std::string Call::setting(const std::string& name) const {
  const auto found = settings.find(name);
  return found == settings.end() ? std::string() : found->second;
}

} // namespace nixbuild::builtin
