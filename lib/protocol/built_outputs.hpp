#pragma once

#include "protocol/codecs.hpp"
#include "protocol/table.hpp"

#include <nixbuild/model/build.hpp>

#include <map>
#include <string>
#include <string_view>

/// The outputs of a build result in their two wire forms. Source: protocol facts 2.5.
namespace nixbuild::protocol::wire {

/// An output of a derivation known by hash: `sha256:<hex>!<output>`.
struct OutputKey {
  Hash hash;
  std::string output;
};

/// Error `wire.realisation`.
[[nodiscard]] OutputKey parse_output_key(std::string_view text);
[[nodiscard]] std::string print_output_key(const OutputKey& key);

/// What the JSON text of a realisation says.
struct KeyedRealisation {
  std::string id; ///< as it stands there
  model::Realisation realisation;
};

/// Errors: `wire.realisation`, `store-path.*`.
[[nodiscard]] KeyedRealisation parse_realisation(std::string_view text);
/// Compact JSON with sorted keys.
[[nodiscard]] std::string print_realisation(const std::string& id,
                                            const model::Realisation& realisation);

using Outputs = std::map<std::string, model::Realisation>;
using OutputHashes = std::map<std::string, Hash>; ///< output name → hash

/// A build result and the hashes by which versions without plain outputs name them.
struct KeyedResult {
  model::BuildResult result;
  OutputHashes keys;
};

/// Map `sha256:<hex>!<output>` → compact JSON with sorted keys. An output without a key is written
/// under the zero hash: clients look at the name. Error `wire.realisation` for other keys and
/// other JSON.
struct OutputsByHash {
  static constexpr std::string_view kind = "map: `sha256:<hex>!<output>` → JSON";

  static void shape(Shape& shape, std::string_view field, const Dialect& dialect);

  /// The owner has a `result` and `keys`.
  static void read(Decoder& decoder, auto& out) {
    read_outputs(decoder, out.result.outputs, out.keys);
  }

  static void write(Encoder& encoder, const auto& value) {
    write_outputs(encoder, value.result.outputs, value.keys);
  }

private:
  static void read_outputs(Decoder& decoder, Outputs& outputs, OutputHashes& keys);
  static void write_outputs(Encoder& encoder, const Outputs& outputs, const OutputHashes& keys);
};

/// Map output name → path, signatures.
struct OutputsByName {
  static constexpr std::string_view kind = "map: output → (path, list of strings)";

  static void shape(Shape& shape, std::string_view field, const Dialect& dialect);

  static void read(Decoder& decoder, auto& out) { read_outputs(decoder, out.result.outputs); }

  static void write(Encoder& encoder, const auto& value) {
    write_outputs(encoder, value.result.outputs);
  }

private:
  static void read_outputs(Decoder& decoder, Outputs& outputs);
  static void write_outputs(Encoder& encoder, const Outputs& outputs);
};

} // namespace nixbuild::protocol::wire
