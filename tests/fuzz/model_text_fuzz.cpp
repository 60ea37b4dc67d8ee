// Whatever is read as a name, a hash, an address or a wish prints to a text that reads as the same
// value. The first byte chooses the reader.

#include <nixbuild/base/error.hpp>
#include <nixbuild/model/content_address.hpp>
#include <nixbuild/model/hash_text.hpp>
#include <nixbuild/model/registration.hpp>
#include <nixbuild/model/store_path.hpp>
#include <nixbuild/protocol/derived_path.hpp>

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
  const model::StoreDir dir;
  if (kind == 0) {
    const auto path = dir.parse(text);
    require(dir.print(path) == text);
    require(model::StorePath::parse(path.base_name()) == path);
  } else if (kind == 1) {
    const auto hash = model::parse_hash(text);
    require(model::parse_hash(model::hash_nix32(hash)) == hash);
    require(model::parse_hash(model::hash_sri(hash)) == hash);
  } else if (kind == 2) {
    const auto address = model::parse_content_address(text);
    require(model::parse_content_address(model::print(address)) == address);
  } else if (kind == 3) {
    const auto method = model::parse_method_algorithm(text);
    require(model::print(method) == text);
  } else if (kind == 4 || kind == 5) {
    const auto form =
        kind == 4 ? protocol::DerivedPathForm::Marked : protocol::DerivedPathForm::Bare;
    const auto wish = protocol::parse_derived_path(dir, text, form);
    require(protocol::parse_derived_path(dir, protocol::print(dir, wish, form), form) == wish);
  } else {
    const auto infos = model::parse_registration(dir, text);
    const auto printed = model::print_registration(dir, infos, model::RegistrationForm::Database);
    require(model::parse_registration(dir, printed) == infos);
  }
}

} // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  if (size == 0) {
    return 0;
  }
  try {
    read(data[0] % 7, text_of({data + 1, size - 1}));
  } catch (const Error& error) {
    require(error.reaction() == Reaction::Reject || error.reaction() == Reaction::Unsupported);
  }
  return 0;
}
