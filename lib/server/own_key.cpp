#include "own_key.hpp"

#include <nixbuild/base/descriptor.hpp>
#include <nixbuild/base/error.hpp>

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/stat.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <cstdio>
#include <optional>
#include <string_view>

namespace nixbuild::server {

namespace {

constexpr std::size_t kMostKeyBytes = 4096;

std::optional<std::string> read_key_text(const std::string& name) {
  const UniqueFd file(::open(name.c_str(), O_RDONLY | O_CLOEXEC));
  if (!file) {
    if (errno == ENOENT) {
      return std::nullopt;
    }
    throw_system_error("daemon.key", "opening the signing key " + name);
  }
  std::string text(kMostKeyBytes, '\0');
  const auto count = system_call("daemon.key", "reading the signing key " + name, [&] {
    return ::read(file.get(), text.data(), text.size());
  });
  text.resize(static_cast<std::size_t>(count));
  return text.substr(0, text.find('\n'));
}

/// Under its name it is whole or not there at all, whatever happens meanwhile.
void write_key_file(const std::string& name, mode_t mode, std::string_view text) {
  const auto next = name + ".new";
  const auto what = "writing the signing key " + name;
  {
    const UniqueFd file(system_call("daemon.key", what, [&] {
      return ::open(next.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, mode);
    }));
    // The public key is for others to read, whatever the umask says.
    system_call("daemon.key", what, [&] { return ::fchmod(file.get(), mode); });
    for (auto rest = text; !rest.empty();) {
      const auto count = system_call(
          "daemon.key", what, [&] { return ::write(file.get(), rest.data(), rest.size()); });
      rest.remove_prefix(static_cast<std::size_t>(count));
    }
    system_call("daemon.key", what, [&] { return ::fsync(file.get()); });
  }
  system_call("daemon.key", what, [&] { return ::rename(next.c_str(), name.c_str()); });
}

model::SigningKey parse_key(const std::string& name, const std::string& text) {
  try {
    return model::SigningKey::parse(text);
  } catch (const Error& error) {
    throw Error(
        Reaction::Corrupt,
        "daemon.key",
        fmt::format("{} holds no signing key{}: put it back from a copy, or remove it and "
                    "get a new one, which clients have to be told to trust",
                    name,
                    text.empty() ? " (it is empty)" : fmt::format(" ({})", error.message())));
  }
}

} // namespace

model::SigningKey load_signing_key(const std::string& state_dir) {
  const auto secret = state_dir + "/signing-key.secret";
  const auto shown = state_dir + "/signing-key.public";
  auto text = read_key_text(secret);
  if (!text) {
    std::array<char, 64> host{};
    ::gethostname(host.data(), host.size() - 1);
    const auto made = model::SigningKey::generate(fmt::format("{}-nixbuild-1", host.data()));
    text = made.secret_text();
    write_key_file(secret, 0600, *text + "\n");
  }
  auto key = parse_key(secret, *text);
  // It follows from the secret one, so it is written again where it is missing or another one.
  if (read_key_text(shown) != key.public_text()) {
    write_key_file(shown, 0644, key.public_text() + "\n");
  }
  return key;
}

} // namespace nixbuild::server
