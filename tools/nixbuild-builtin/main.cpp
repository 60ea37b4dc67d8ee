// Runs one builtin builder, inside the machine of its build, in place of the builder's program:
//
//   nixbuild-builtin builtin:NAME [SETTING=VALUE…]
//
// The derivation's variables are the environment. It ends with 0, or with 1 and a line
// `error: …` in the build's log.

#include "builtins.hpp"

#include <nixbuild/base/error.hpp>

#include <fmt/format.h>
#include <unistd.h>

#include <cstdio>
#include <exception>
#include <string_view>

namespace nixbuild::builtin {

namespace {

void add_pair(std::map<std::string, std::string>& map, std::string_view text) {
  const auto split = text.find('=');
  if (split != std::string_view::npos) {
    map.emplace(text.substr(0, split), text.substr(split + 1));
  }
}

void run(std::string_view name, const Call& call) {
  if (name == "builtin:fetchurl") {
    fetch_url(call);
  } else if (name == "builtin:buildenv") {
    build_environment(call);
  } else if (name == "builtin:unpack-channel") {
    unpack_channel(call);
  } else {
    fail(fmt::format("unsupported builtin builder '{}'", name));
  }
}

} // namespace

} // namespace nixbuild::builtin

int main(int argc, char** argv) {
  using namespace nixbuild::builtin;
  if (argc < 2) {
    fmt::print(stderr, "usage: nixbuild-builtin builtin:NAME [SETTING=VALUE...]\n");
    return 2;
  }
  try {
    Call call;
    for (char** variable = environ; *variable != nullptr; ++variable) {
      add_pair(call.attributes, *variable);
    }
    for (int i = 2; i < argc; ++i) {
      add_pair(call.settings, argv[i]);
    }
    run(argv[1], call);
    return 0;
  } catch (const std::exception& error) {
    fmt::print(stderr, "error: {}\n", error.what());
    return 1;
  }
}
