// What comes over HTTP, from the front program, in settings and in the configuration file: refused
// with an Error, or read as something that prints back. The first byte chooses the reader.

#include "server/api_target.hpp"
#include "server/api_time.hpp"

#include <nixbuild/base/error.hpp>
#include <nixbuild/server/command_words.hpp>
#include <nixbuild/server/config.hpp>
#include <nixbuild/server/handoff.hpp>
#include <nixbuild/server/settings.hpp>

#include <cstdint>
#include <cstdlib>
#include <string>
#include <string_view>

using namespace nixbuild;

namespace {

void require(bool condition) {
  if (!condition) {
    std::abort();
  }
}

void read_setting(std::string_view text) {
  for (const auto& spec : server::settings_table()) {
    try {
      const auto value = server::parse_setting(spec, server::SettingLevel::System, text);
      const auto printed = server::print_setting(spec, value);
      require(server::parse_setting(spec, server::SettingLevel::System, printed) == value);
    } catch (const Error& error) {
      require(error.code() == "settings.value");
    }
  }
}

void read_words(std::string_view text) {
  const auto words = server::split_words(text);
  std::string line;
  for (const auto& word : words) {
    line += " '";
    for (const char c : word) {
      line += c == '\'' ? std::string("'\\''") : std::string(1, c);
    }
    line += "'";
  }
  require(server::split_words(line) == words);
}

void read(unsigned kind, std::string_view text) {
  if (kind == 0) {
    const auto target = server::parse_target(text);
    require(target.segments.size() <= server::kTargetSegments);
  } else if (kind == 1) {
    if (const auto time = server::parse_time_us(text)) {
      require(*time >= 0);
      require(server::parse_time_us(server::day_of(*time)).value_or(-1) <= *time);
    }
  } else if (kind == 2) {
    const auto handoff = server::decode_handoff(text);
    require(server::decode_handoff(server::encode(handoff)) == handoff);
  } else if (kind == 3) {
    read_setting(text);
  } else if (kind == 5) {
    read_words(text);
  } else {
    static_cast<void>(server::parse_config(text, "config.toml"));
  }
}

} // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  if (size == 0) {
    return 0;
  }
  try {
    read(data[0] % 6, text_of({data + 1, size - 1}));
  } catch (const Error& error) {
    require(error.reaction() != Reaction::Internal);
  }
  return 0;
}
