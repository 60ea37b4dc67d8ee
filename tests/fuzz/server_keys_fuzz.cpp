// A public key, a list of keys and a list of tokens that were read print to what reads as the same;
// a line of an `authorized_keys` file has one line end. The first byte chooses the reader.

#include "server/http_tokens.hpp"

#include <nixbuild/base/error.hpp>
#include <nixbuild/server/key_list.hpp>
#include <nixbuild/server/ssh_key.hpp>

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

void read(unsigned kind, std::string_view text) {
  if (kind == 0) {
    const auto key = server::parse_public_key(text);
    const auto back = server::parse_public_key(server::public_key_text(key.algorithm, key.blob));
    require(back.algorithm == key.algorithm && back.blob == key.blob);
    require(key.comment.find('\n') == std::string::npos);
  } else if (kind == 1) {
    const auto keys = server::parse_key_list(text);
    require(server::parse_key_list(server::print_key_list(keys)) == keys);
    const std::string serve[] = {"nixbuild-serve"};
    for (const auto& key : keys) {
      const auto line = server::authorized_keys_line(key, serve);
      require(line.find('\n') == line.size() - 1);
    }
  } else {
    const auto list = server::parse_tokens(text);
    std::string printed;
    for (const auto& token : list.tokens) {
      printed += server::print_token(token);
    }
    require(server::parse_tokens(printed).tokens == list.tokens);
  }
}

} // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  if (size == 0) {
    return 0;
  }
  try {
    read(data[0] % 3, text_of({data + 1, size - 1}));
  } catch (const Error& error) {
    require(error.reaction() != Reaction::Internal);
  }
  return 0;
}
