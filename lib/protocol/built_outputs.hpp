#pragma once

#include "protocol/codecs.hpp"
#include "protocol/table.hpp"

#include <nixbuild/model/build.hpp>

#include <map>
#include <string>
#include <string_view>

/// The outputs of a build result in their two wire forms. Source: protocol facts 2.5.
namespace nixbuild::protocol::wire {

/// A build result and the hashes by which versions without plain outputs name them.
struct KeyedResult {
  model::BuildResult result;
  std::map<std::string, Hash> keys; ///< output name → hash
};

/// Map `sha256:<hex>!<output>` → compact JSON with sorted keys. An output without a key is written
/// under the zero hash: clients look at the name. Error `wire.realisation` for other keys and
/// other JSON.
struct OutputsByHash {
  static constexpr std::string_view kind = "map: `sha256:<hex>!<output>` → JSON";

  static void shape(Shape& shape, std::string_view field, Version version);
  static void read(Decoder& decoder, KeyedResult& out);
  static void write(Encoder& encoder, const KeyedResult& value);
};

/// Map output name → path, signatures.
struct OutputsByName {
  static constexpr std::string_view kind = "map: output → (path, list of strings)";

  static void shape(Shape& shape, std::string_view field, Version version);
  static void read(Decoder& decoder, KeyedResult& out);
  static void write(Encoder& encoder, const KeyedResult& value);
};

} // namespace nixbuild::protocol::wire
