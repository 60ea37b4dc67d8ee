// nixbuild-runner --run-dir DIR --fd N [--background]
//
// Owns one build: started by nixbuildd with a socket, never by hand.

#include <nixbuild/base/error.hpp>
#include <nixbuild/base/private_files.hpp>
#include <nixbuild/sandbox/runner.hpp>

#include <unistd.h>

#include <charconv>
#include <cstdio>
#include <cstring>
#include <string_view>

namespace {

constexpr int kUsage = 2;

struct Arguments {
  std::string_view directory;
  int fd = -1;
  bool background = false;
};

bool read_arguments(int argc, char** argv, Arguments& arguments) {
  for (int i = 1; i < argc; ++i) {
    const std::string_view name = argv[i];
    const std::string_view value = i + 1 < argc ? argv[i + 1] : "";
    if (name == "--background") {
      arguments.background = true;
    } else if (name == "--run-dir" && !value.empty()) {
      arguments.directory = value;
      ++i;
    } else if (name == "--fd" && !value.empty()) {
      std::from_chars(value.data(), value.data() + value.size(), arguments.fd);
      ++i;
    } else {
      return false;
    }
  }
  return !arguments.directory.empty() && arguments.fd > 2;
}

} // namespace

int main(int argc, char** argv) {
  nixbuild::make_files_private();
  Arguments arguments;
  if (!read_arguments(argc, argv, arguments)) {
    std::fputs("usage: nixbuild-runner --run-dir DIR --fd N [--background]\n", stderr);
    return kUsage;
  }
  if (arguments.background) {
    const auto child = ::fork();
    if (child != 0) {
      return child > 0 ? 0 : nixbuild::exit_code_of(nixbuild::Reaction::Internal);
    }
  }
  try {
    return nixbuild::sandbox::run_runner(arguments.directory, nixbuild::UniqueFd(arguments.fd));
  } catch (const nixbuild::Error& error) {
    std::fprintf(stderr, "nixbuild-runner: %s: %s\n", error.code().c_str(), error.what());
    return nixbuild::exit_code_of(error.reaction());
  } catch (const std::exception& error) {
    std::fprintf(stderr, "nixbuild-runner: %s\n", error.what());
    return nixbuild::exit_code_of(nixbuild::Reaction::Internal);
  }
}
