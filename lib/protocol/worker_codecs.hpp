#pragma once

#include "protocol/built_outputs.hpp"
#include "protocol/nix_layouts.hpp"

#include <nixbuild/protocol/worker_messages.hpp>

#include <chrono>
#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

/// Parts of messages that only the worker protocol has. Source: protocol facts 3.4, 3.5.
namespace nixbuild::protocol::worker {

using wire::Decoder;
using wire::Dialect;
using wire::Encoder;
using wire::Shape;
using wire::StepKind;

/// A word whose value nobody looks at; `Value` is what senders put there.
template <std::uint64_t Value>
struct Constant : wire::WordShape {
  static constexpr std::string_view kind = "ignored";

  static void read(Decoder& decoder, auto&) { static_cast<void>(decoder.word()); }

  static void write(Encoder& encoder, const auto&) { encoder.word(Value); }
};

/// Error `worker.mode`.
struct BuildModeNumber : wire::WordShape {
  static constexpr std::string_view kind = "build mode";

  static void read(Decoder& decoder, BuildMode& out);
  static void write(Encoder& encoder, BuildMode value);
};

/// Error `worker.action`.
struct GcActionNumber : wire::WordShape {
  static constexpr std::string_view kind = "action";

  static void read(Decoder& decoder, GcAction& out);
  static void write(Encoder& encoder, GcAction value);
};

/// `text:sha256`, `fixed:r:sha256`, … Error `worker.method`.
struct MethodText : wire::StringShape {
  static constexpr std::string_view kind = "content address method";

  static void read(Decoder& decoder, model::MethodAlgorithm& out);
  static void write(Encoder& encoder, const model::MethodAlgorithm& value);
};

/// Not recursive SHA-256, recursive, algorithm. Error `worker.method`.
struct MethodFlags {
  static constexpr std::string_view kind = "0: recursive SHA-256; recursive; algorithm";

  static void shape(Shape& shape, std::string_view field, const Dialect& dialect);
  static void read(Decoder& decoder, model::MethodAlgorithm& out);
  static void write(Encoder& encoder, const model::MethodAlgorithm& value);
};

/// The text of a DerivedPath in the form of the version. Errors: those of `parse_derived_path`.
struct DerivedPathText : wire::StringShape {
  static constexpr std::string_view kind = "derived path";

  static void read(Decoder& decoder, DerivedPath& out);
  static void write(Encoder& encoder, const DerivedPath& value);
};

struct DerivedPaths : wire::ListOfStringsShape {
  static constexpr std::string_view kind = "list of derived paths";

  static void read(Decoder& decoder, std::vector<DerivedPath>& out);
  static void write(Encoder& encoder, const std::vector<DerivedPath>& value);
};

/// A derivation without the store directory.
struct BaseName : wire::StringShape {
  static constexpr std::string_view kind = "base name of a path";

  static void read(Decoder& decoder, model::StorePath& out);
  static void write(Encoder& encoder, const model::StorePath& value);
};

/// Paths of CollectGarbage without the feature: whether they matter follows from the action.
struct GarbagePaths : wire::ListOfStringsShape {
  static constexpr std::string_view kind = wire::PathSet::kind;

  static void read(Decoder& decoder, CollectGarbage& out);
  static void write(Encoder& encoder, const CollectGarbage& value);
};

struct GarbageScope {
  static constexpr std::string_view kind =
      "1: the whole store; or 0, set of paths, deleteReferrers";

  static void shape(Shape& shape, std::string_view field, const Dialect& dialect);
  static void read(Decoder& decoder, CollectGarbage& out);
  static void write(Encoder& encoder, const CollectGarbage& value);
};

struct PathAddressMap {
  static constexpr std::string_view kind = "map: path → content address or empty string";

  static void shape(Shape& shape, std::string_view field, const Dialect& dialect);
  static void read(Decoder& decoder, std::map<model::StorePath, std::string>& out);
  static void write(Encoder& encoder, const std::map<model::StorePath, std::string>& value);
};

/// The same without addresses.
struct PathKeys : wire::ListOfStringsShape {
  static constexpr std::string_view kind = wire::PathSet::kind;

  static void read(Decoder& decoder, std::map<model::StorePath, std::string>& out);
  static void write(Encoder& encoder, const std::map<model::StorePath, std::string>& value);
};

/// Errors: `wire.realisation`; writing the other kind of id `worker.realisation`.
struct OutputByPath {
  static constexpr std::string_view kind = "path of the derivation, output name";

  static void shape(Shape& shape, std::string_view field, const Dialect& dialect);
  static void read(Decoder& decoder, DrvOutput& out);
  static void write(Encoder& encoder, const DrvOutput& value);
};

/// Errors as OutputByPath.
struct OutputByHash : wire::StringShape {
  static constexpr std::string_view kind = "`sha256:<hex>!<output>`";

  static void read(Decoder& decoder, DrvOutput& out);
  static void write(Encoder& encoder, const DrvOutput& value);
};

struct PlainRealisation {
  static constexpr std::string_view kind = "path, list of strings";

  static void shape(Shape& shape, std::string_view field, const Dialect& dialect);
  static void read(Decoder& decoder, model::Realisation& out);
  static void write(Encoder& encoder, const model::Realisation& value);
};

/// `id` and `realisation` of the owner in one text.
struct RealisationText : wire::StringShape {
  static constexpr std::string_view kind = "JSON";

  static void read(Decoder& decoder, RegisterDrvOutput& out);
  static void write(Encoder& encoder, const RegisterDrvOutput& value);
};

struct OptionalDuration {
  static constexpr std::string_view kind = "0; or 1, microseconds";

  static void shape(Shape& shape, std::string_view field, const Dialect& dialect);
  static void read(Decoder& decoder, std::optional<std::chrono::microseconds>& out);
  static void write(Encoder& encoder, const std::optional<std::chrono::microseconds>& value);
};

/// The reply to QueryPathInfo.
struct OptionalPathFacts {
  static constexpr std::string_view kind = "0; or 1, UnkeyedValidPathInfo";

  static void shape(Shape& shape, std::string_view field, const Dialect& dialect);
  static void read(Decoder& decoder, std::optional<model::PathInfo>& out);
  static void write(Encoder& encoder, const std::optional<model::PathInfo>& value);
};

struct Roots {
  static constexpr std::string_view kind = "list of (link, path)";
  using Value = std::vector<std::pair<std::string, model::StorePath>>;

  static void shape(Shape& shape, std::string_view field, const Dialect& dialect);
  static void read(Decoder& decoder, Value& out);
  static void write(Encoder& encoder, const Value& value);
};

struct SubstitutableLayout {
  static constexpr std::string_view kName = "SubstitutableInfo";
  using Owner = SubstitutableInfo;
  static constexpr auto fields =
      std::tuple{wire::field<wire::OptionalPath>("deriver", &Owner::deriver),
                 wire::field<wire::PathSet>("references", &Owner::references),
                 wire::field<wire::Number>("downloadSize", &Owner::download_size),
                 wire::field<wire::Number>("narSize", &Owner::nar_size)};
};

struct OptionalSubstitutable {
  static constexpr std::string_view kind = "0; or 1, SubstitutableInfo";

  static void shape(Shape& shape, std::string_view field, const Dialect& dialect);
  static void read(Decoder& decoder, std::optional<SubstitutableInfo>& out);
  static void write(Encoder& encoder, const std::optional<SubstitutableInfo>& value);
};

struct SubstitutableMap {
  static constexpr std::string_view kind = "map: path → SubstitutableInfo";
  using Value = std::map<model::StorePath, SubstitutableInfo>;

  static void shape(Shape& shape, std::string_view field, const Dialect& dialect);
  static void read(Decoder& decoder, Value& out);
  static void write(Encoder& encoder, const Value& value);
};

/// Error `wire.realisation` for names that no output can have.
struct OutputPathMap {
  static constexpr std::string_view kind = "map: output → path or empty string";
  using Value = std::map<std::string, std::optional<model::StorePath>>;

  static void shape(Shape& shape, std::string_view field, const Dialect& dialect);
  static void read(Decoder& decoder, Value& out);
  static void write(Encoder& encoder, const Value& value);
};

struct BuildResultLayout {
  static constexpr std::string_view kName = "BuildResult";
  using Owner = BuildReply;
  using Result = model::BuildResult;

  static constexpr auto fields = std::tuple{
      wire::field_of<wire::BuildStatusNumber>("status", &Owner::result, &Result::status),
      wire::field_of<wire::String>("errorMsg", &Owner::result, &Result::error),
      wire::field_of<wire::Number>(
          "timesBuilt", &Owner::result, &Result::times_built, Version{1, 29}),
      wire::field_of<wire::Flag>(
          "isNonDeterministic", &Owner::result, &Result::non_deterministic, Version{1, 29}),
      wire::field_of<wire::Time>("startTime", &Owner::result, &Result::start_time, Version{1, 29}),
      wire::field_of<wire::Time>("stopTime", &Owner::result, &Result::stop_time, Version{1, 29}),
      wire::field_of<OptionalDuration>(
          "cpuUser", &Owner::result, &Result::cpu_user, Version{1, 37}),
      wire::field_of<OptionalDuration>(
          "cpuSystem", &Owner::result, &Result::cpu_system, Version{1, 37}),
      wire::field<wire::OutputsByHash>("builtOutputs", wire::Whole(), Version{1, 28})
          .unless(wire::kRealisationsByPath),
      wire::field<wire::OutputsByName>("builtOutputs", wire::Whole(), Version{1, 28})
          .when(wire::kRealisationsByPath)};
};

struct TargetResults {
  static constexpr std::string_view kind = "list of (derived path, BuildResult)";

  static void shape(Shape& shape, std::string_view field, const Dialect& dialect);
  static void read(Decoder& decoder, std::vector<TargetResult>& out);
  static void write(Encoder& encoder, const std::vector<TargetResult>& value);
};

/// Error (writing more than one) `worker.realisation`.
struct OptionalRealisation {
  static constexpr std::string_view kind = "0; or 1, path, list of strings";

  static void shape(Shape& shape, std::string_view field, const Dialect& dialect);
  static void read(Decoder& decoder, RealisationsReply& out);
  static void write(Encoder& encoder, const RealisationsReply& value);
};

/// Error `wire.realisation`, also when they are not all of one output.
struct RealisationTexts : wire::ListOfStringsShape {
  static constexpr std::string_view kind = "list of JSON";

  static void read(Decoder& decoder, RealisationsReply& out);
  static void write(Encoder& encoder, const RealisationsReply& value);
};

struct RealisationPaths : wire::ListOfStringsShape {
  static constexpr std::string_view kind = "list of paths";

  static void read(Decoder& decoder, RealisationsReply& out);
  static void write(Encoder& encoder, const RealisationsReply& value);
};

} // namespace nixbuild::protocol::worker
