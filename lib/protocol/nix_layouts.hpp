#pragma once

#include "protocol/codecs.hpp"
#include "protocol/table.hpp"

#include <nixbuild/model/build.hpp>
#include <nixbuild/model/derivation.hpp>
#include <nixbuild/model/path_info.hpp>

#include <map>
#include <string>
#include <string_view>
#include <tuple>

/// Layouts that the serve and the worker protocol share. Source: protocol facts 2.6.
namespace nixbuild::protocol::wire {

/// Stands where a decoder will put the real path.
[[nodiscard]] const model::StorePath& placeholder_path();
[[nodiscard]] model::PathInfo blank_path_info();

/// Error `derivation.path` when the path does not end in `.drv`.
struct DerivationPath : Path {
  static constexpr std::string_view kind = "path of a derivation";

  static void read(Decoder& decoder, model::StorePath& out);
};

/// Name, path, method and algorithm, hash of each output. Errors: `derivation.output`,
/// `derivation.outputs` (two of one name), `hash.algorithm`.
struct DerivationOutputs {
  static constexpr std::string_view kind = "map: name → (path, method:algorithm, hash)";

  static void shape(Shape& shape, std::string_view field, const Dialect& dialect);
  static void read(Decoder& decoder, std::map<std::string, model::DerivationOutput>& out);
  static void write(Encoder& encoder, const std::map<std::string, model::DerivationOutput>& value);
};

/// Of two equal keys the later one counts.
struct TextMap {
  static constexpr std::string_view kind = "map of strings";

  static void shape(Shape& shape, std::string_view field, const Dialect& dialect);
  static void read(Decoder& decoder, std::map<std::string, std::string>& out);
  static void write(Encoder& encoder, const std::map<std::string, std::string>& value);
};

struct BasicDerivationLayout {
  static constexpr std::string_view kName = "BasicDerivation";
  using Owner = model::BasicDerivation;
  static constexpr auto fields = std::tuple{field<DerivationOutputs>("outputs", &Owner::outputs),
                                            field<PathSet>("inputSrcs", &Owner::input_sources),
                                            field<Text>("platform", &Owner::platform),
                                            field<Text>("builder", &Owner::builder),
                                            field<Texts>("args", &Owner::arguments),
                                            field<TextMap>("env", &Owner::environment)};
};

/// What the worker protocol says of a valid path, without the path. In the layout of 1.16.
struct PathFactsLayout {
  static constexpr std::string_view kName = "UnkeyedValidPathInfo";
  using Owner = model::PathInfo;
  static constexpr auto fields =
      std::tuple{field<OptionalPath>("deriver", &Owner::deriver),
                 field<HexHash>("narHash", &Owner::nar_hash),
                 field<PathSet>("references", &Owner::references),
                 field<Time>("registrationTime", &Owner::registration_time),
                 field<Number>("narSize", &Owner::nar_size),
                 field<Flag>("ultimate", &Owner::ultimate),
                 field<Texts>("sigs", &Owner::signatures),
                 field<Text>("ca", &Owner::content_address)};
};

/// With it. AddToStoreNar of both protocols begins so.
struct ValidPathInfoLayout {
  static constexpr std::string_view kName = "ValidPathInfo";
  using Owner = model::PathInfo;
  static constexpr auto fields =
      std::tuple{field<Path>("path", &Owner::path), field<Group<PathFactsLayout>>("info", Whole())};
};

/// Error `wire.status` for numbers that no version knows.
struct BuildStatusNumber : WordShape {
  static constexpr std::string_view kind = "build status";

  static void read(Decoder& decoder, model::BuildStatus& out);
  static void write(Encoder& encoder, model::BuildStatus value);
};

} // namespace nixbuild::protocol::wire
