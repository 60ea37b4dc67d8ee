#pragma once

#include "protocol/built_outputs.hpp"
#include "protocol/hello.hpp"
#include "protocol/nix_layouts.hpp"

#include <nixbuild/protocol/serve.hpp>

#include <array>
#include <cstddef>
#include <string_view>
#include <tuple>
#include <variant>

/// The serve protocol as tables. Source: protocol facts 2.2 to 2.8.
namespace nixbuild::protocol::serve {

inline constexpr wire::HelloKind kServeHello{
    "serve", "serve.magic", "serve.version", kOldestVersion};

using wire::blank_path_info;
using wire::placeholder_path;

struct BuildOptionsLayout {
  static constexpr std::string_view kName = "BuildOptions";
  using Owner = model::BuildOptions;
  static constexpr auto fields = std::tuple{
      wire::field<wire::Seconds>("maxSilentTime", &Owner::max_silent_time),
      wire::field<wire::Seconds>("buildTimeout", &Owner::timeout),
      wire::field<wire::Known<wire::Number>>("maxLogSize", &Owner::max_log_bytes, Version{2, 2}),
      wire::field<wire::Known<wire::Small>>("nrRepeats", &Owner::repeats, Version{2, 3}),
      wire::field<wire::Known<wire::Flag>>(
          "enforceDeterminism", &Owner::enforce_determinism, Version{2, 3}),
      wire::field<wire::Known<wire::Flag>>("keepFailed", &Owner::keep_failed, Version{2, 7})};
};

/// The fields of a request after its command word.
template <class Request>
struct Layout;

template <>
struct Layout<QueryValidPaths> {
  using Owner = QueryValidPaths;
  static constexpr auto fields =
      std::tuple{wire::field<wire::Flag>("lock", &Owner::lock),
                 wire::field<wire::Flag>("substitute", &Owner::substitute),
                 wire::field<wire::PathList>("paths", &Owner::paths)};

  static Owner blank() { return {}; }
};

template <>
struct Layout<QueryPathInfos> {
  using Owner = QueryPathInfos;
  static constexpr auto fields = std::tuple{wire::field<wire::PathList>("paths", &Owner::paths)};

  static Owner blank() { return {}; }
};

template <>
struct Layout<DumpStorePath> {
  using Owner = DumpStorePath;
  static constexpr auto fields = std::tuple{wire::field<wire::Path>("path", &Owner::path)};

  static Owner blank() { return {placeholder_path()}; }
};

template <>
struct Layout<ImportPaths> {
  using Owner = ImportPaths;
  static constexpr std::tuple<> fields{};

  static Owner blank() { return {}; }
};

template <>
struct Layout<ExportPaths> {
  using Owner = ExportPaths;
  static constexpr auto fields = std::tuple{wire::field<wire::Ignored>("sign", wire::Whole()),
                                            wire::field<wire::PathList>("paths", &Owner::paths)};

  static Owner blank() { return {}; }
};

template <>
struct Layout<BuildPaths> {
  using Owner = BuildPaths;
  static constexpr auto fields =
      std::tuple{wire::field<wire::Texts>("targets", &Owner::targets),
                 wire::field<wire::Group<BuildOptionsLayout>>("options", &Owner::options)};

  static Owner blank() { return {}; }
};

template <>
struct Layout<QueryClosure> {
  using Owner = QueryClosure;
  static constexpr auto fields =
      std::tuple{wire::field<wire::Flag>("includeOutputs", &Owner::include_outputs),
                 wire::field<wire::PathList>("paths", &Owner::paths)};

  static Owner blank() { return {}; }
};

template <>
struct Layout<BuildDerivation> {
  using Owner = BuildDerivation;
  static constexpr auto fields = std::tuple{
      wire::field<wire::DerivationPath>("drvPath", &Owner::path),
      wire::field<wire::Group<wire::BasicDerivationLayout>>("derivation", &Owner::derivation),
      wire::field<wire::Group<BuildOptionsLayout>>("options", &Owner::options)};

  static Owner blank() { return {placeholder_path(), {}, {}}; }
};

template <>
struct Layout<AddToStoreNar> {
  using Owner = AddToStoreNar;

  static constexpr auto fields =
      std::tuple{wire::field<wire::Group<wire::ValidPathInfoLayout>>("info", &Owner::info)};

  static Owner blank() { return {blank_path_info()}; }
};

/// One entry of a QueryPathInfos reply, after its path.
struct PathInfoLayout {
  static constexpr std::string_view kName = "PathInfo";
  using Owner = PathInfoReply;
  using Info = model::PathInfo;

  static constexpr auto fields = std::tuple{
      wire::field_of<wire::OptionalPath>("deriver", &Owner::info, &Info::deriver),
      wire::field_of<wire::PathSet>("references", &Owner::info, &Info::references),
      wire::field<wire::Number>("downloadSize", &Owner::download_size),
      wire::field_of<wire::Number>("narSize", &Owner::info, &Info::nar_size),
      wire::field_of<wire::Nix32Hash>("narHash", &Owner::info, &Info::nar_hash, Version{2, 4}),
      wire::field_of<wire::Text>("ca", &Owner::info, &Info::content_address, Version{2, 4}),
      wire::field_of<wire::Texts>("sigs", &Owner::info, &Info::signatures, Version{2, 4})};
};

struct BuildResultLayout {
  static constexpr std::string_view kName = "BuildResult";
  using Owner = wire::KeyedResult;
  using Result = model::BuildResult;

  static constexpr auto fields = std::tuple{
      wire::field_of<wire::BuildStatusNumber>("status", &Owner::result, &Result::status),
      wire::field_of<wire::String>("errorMsg", &Owner::result, &Result::error),
      wire::field_of<wire::Number>(
          "timesBuilt", &Owner::result, &Result::times_built, Version{2, 3}),
      wire::field_of<wire::Flag>(
          "isNonDeterministic", &Owner::result, &Result::non_deterministic, Version{2, 3}),
      wire::field_of<wire::Time>("startTime", &Owner::result, &Result::start_time, Version{2, 3}),
      wire::field_of<wire::Time>("stopTime", &Owner::result, &Result::stop_time, Version{2, 3}),
      wire::field<wire::OutputsByHash>("builtOutputs", wire::Whole(), Version{2, 6}, Version{2, 7}),
      wire::field<wire::OutputsByName>("builtOutputs", wire::Whole(), Version{2, 8})};
};

/// One row per operation. Names, numbers, permission, and decoder dispatch derive from it.
struct Operation {
  std::uint64_t number;
  std::string_view name;
  bool needs_write;
  Permission permission;
  Version since;
  std::string_view reply; ///< for the documentation
  std::size_t index;      ///< of the request's type in Request
  void (*shape)(wire::Shape&, const wire::Dialect&);
  Request (*read)(wire::Decoder&);
};

template <class R, std::size_t Index = 0>
constexpr std::size_t request_index() {
  if constexpr (std::is_same_v<std::variant_alternative_t<Index, Request>, R>) {
    return Index;
  } else {
    return request_index<R, Index + 1>();
  }
}

template <class R>
Request read_request(wire::Decoder& decoder) {
  R out = Layout<R>::blank();
  wire::read_fields<Layout<R>>(decoder, out);
  return out;
}

template <class R>
constexpr Operation operation(std::uint64_t number,
                              std::string_view name,
                              bool needs_write,
                              Permission permission,
                              Version since,
                              std::string_view reply) {
  return {number,
          name,
          needs_write,
          permission,
          since,
          reply,
          request_index<R>(),
          &wire::shape_fields<Layout<R>>,
          &read_request<R>};
}

inline constexpr std::array kOperations{
    operation<QueryValidPaths>(1,
                               "QueryValidPaths",
                               false,
                               Permission::StoreRead,
                               Version{2, 0},
                               "the valid ones as paths"),
    operation<QueryPathInfos>(2,
                              "QueryPathInfos",
                              false,
                              Permission::StoreRead,
                              Version{2, 0},
                              "for each valid path: path, PathInfo; then an empty string"),
    operation<DumpStorePath>(
        3, "DumpStorePath", false, Permission::StoreRead, Version{2, 0}, "NAR"),
    operation<ImportPaths>(4,
                           "ImportPaths",
                           true,
                           Permission::StoreWrite,
                           Version{2, 0},
                           "1, after the export stream"),
    operation<ExportPaths>(
        5, "ExportPaths", false, Permission::StoreRead, Version{2, 0}, "export stream"),
    operation<BuildPaths>(
        6, "BuildPaths", true, Permission::BuildWrite, Version{2, 0}, "0, or status and message"),
    operation<QueryClosure>(
        7, "QueryClosure", false, Permission::StoreRead, Version{2, 0}, "paths"),
    operation<BuildDerivation>(
        8, "BuildDerivation", true, Permission::BuildWrite, Version{2, 1}, "BuildResult"),
    operation<AddToStoreNar>(
        9, "AddToStoreNar", true, Permission::StoreWrite, Version{2, 5}, "1, after the NAR"),
};

/// Row i belongs to alternative i of Request.
constexpr bool rows_follow_requests() {
  for (std::size_t i = 0; i < kOperations.size(); ++i) {
    if (kOperations[i].index != i) {
      return false;
    }
  }
  return kOperations.size() == std::variant_size_v<Request>;
}

static_assert(rows_follow_requests());

} // namespace nixbuild::protocol::serve
