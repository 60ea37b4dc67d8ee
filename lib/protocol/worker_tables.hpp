#pragma once

#include "protocol/hello.hpp"
#include "protocol/worker_codecs.hpp"

#include <nixbuild/protocol/worker.hpp>

#include <array>
#include <cstddef>
#include <string_view>
#include <tuple>
#include <type_traits>
#include <variant>

/// The worker protocol's requests as tables. Source: protocol facts 3.5.
namespace nixbuild::protocol::worker {

using wire::placeholder_path;

inline constexpr wire::HelloKind kWorkerHello{
    "worker", "worker.magic", "worker.version", kOldestVersion};

[[nodiscard]] Dialect dialect_of(const Peer& peer) noexcept;

/// The fields of a message: of a request after its operation word, of a reply after STDERR_LAST.
template <class Message>
struct Layout;

template <class Request>
struct EmptyLayout {
  using Owner = Request;
  static constexpr std::tuple<> fields{};

  static Owner blank() { return {}; }
};

template <class Request>
struct PathLayout {
  using Owner = Request;
  static constexpr auto fields = std::tuple{wire::field<wire::Path>("path", &Owner::path)};

  static Owner blank() { return {placeholder_path()}; }
};

template <class Request>
struct TargetsLayout {
  using Owner = Request;
  static constexpr auto fields = std::tuple{wire::field<DerivedPaths>("targets", &Owner::targets),
                                            wire::field<BuildModeNumber>("mode", &Owner::mode)};

  static Owner blank() { return {}; }
};

template <>
struct Layout<IsValidPath> : PathLayout<IsValidPath> {};

template <>
struct Layout<QueryReferrers> : PathLayout<QueryReferrers> {};

template <>
struct Layout<AddToStore> {
  using Owner = AddToStore;
  static constexpr auto fields =
      std::tuple{wire::field<wire::Text>("name", &Owner::name),
                 wire::field<MethodText>("method", &Owner::method, Version{1, 25}),
                 wire::field<wire::PathSet>("references", &Owner::references, Version{1, 25}),
                 wire::field<wire::Flag>("repair", &Owner::repair, Version{1, 25}),
                 wire::field<MethodFlags>("method", &Owner::method, wire::kFirst, Version{1, 24})};

  static Owner blank() { return {}; }
};

template <>
struct Layout<AddTextToStore> {
  using Owner = AddTextToStore;
  static constexpr auto fields =
      std::tuple{wire::field<wire::Text>("name", &Owner::name),
                 wire::field<wire::String>("contents", &Owner::contents),
                 wire::field<wire::PathSet>("references", &Owner::references)};

  static Owner blank() { return {}; }
};

template <>
struct Layout<BuildPaths> : TargetsLayout<BuildPaths> {};

template <>
struct Layout<EnsurePath> : PathLayout<EnsurePath> {};

template <>
struct Layout<AddTempRoot> : PathLayout<AddTempRoot> {};

template <>
struct Layout<AddIndirectRoot> {
  using Owner = AddIndirectRoot;
  static constexpr auto fields = std::tuple{wire::field<wire::Text>("link", &Owner::link)};

  static Owner blank() { return {}; }
};

template <>
struct Layout<SyncWithGC> : EmptyLayout<SyncWithGC> {};

template <>
struct Layout<FindRoots> : EmptyLayout<FindRoots> {};

template <>
struct Layout<QueryDeriver> : PathLayout<QueryDeriver> {};

template <>
struct Layout<SetOptions> {
  using Owner = SetOptions;
  static constexpr auto fields =
      std::tuple{wire::field<wire::Flag>("keepFailed", &Owner::keep_failed),
                 wire::field<wire::Flag>("keepGoing", &Owner::keep_going),
                 wire::field<wire::Flag>("tryFallback", &Owner::try_fallback),
                 wire::field<wire::Small>("verbosity", &Owner::verbosity),
                 wire::field<wire::Small>("maxBuildJobs", &Owner::max_build_jobs),
                 wire::field<wire::Seconds>("maxSilentTime", &Owner::max_silent_time),
                 wire::field<Constant<1>>("useBuildHook", wire::Whole()),
                 wire::field<wire::Small>("verboseBuild", &Owner::verbose_build),
                 wire::field<Constant<0>>("logType", wire::Whole()),
                 wire::field<Constant<0>>("printBuildTrace", wire::Whole()),
                 wire::field<wire::Small>("buildCores", &Owner::build_cores),
                 wire::field<wire::Flag>("useSubstitutes", &Owner::use_substitutes),
                 wire::field<wire::TextMap>("overrides", &Owner::overrides)};

  static Owner blank() { return {}; }
};

template <>
struct Layout<CollectGarbage> {
  using Owner = CollectGarbage;
  static constexpr auto fields =
      std::tuple{wire::field<GcActionNumber>("action", &Owner::action),
                 wire::field<GarbagePaths>("paths", wire::Whole()).unless(wire::kGarbageScope),
                 wire::field<GarbageScope>("scope", wire::Whole()).when(wire::kGarbageScope),
                 wire::field<wire::Flag>("ignoreLiveness", &Owner::ignore_liveness),
                 wire::field<wire::Number>("maxFreed", &Owner::max_freed),
                 wire::field<Constant<0>>("obsolete", wire::Whole()),
                 wire::field<Constant<0>>("obsolete", wire::Whole()),
                 wire::field<Constant<0>>("obsolete", wire::Whole())};

  static Owner blank() { return {}; }
};

template <>
struct Layout<QuerySubstitutablePathInfo> : PathLayout<QuerySubstitutablePathInfo> {};

template <>
struct Layout<QueryDerivationOutputs> : PathLayout<QueryDerivationOutputs> {};

template <>
struct Layout<QueryAllValidPaths> : EmptyLayout<QueryAllValidPaths> {};

template <>
struct Layout<QueryPathInfo> : PathLayout<QueryPathInfo> {};

template <>
struct Layout<QueryDerivationOutputNames> : PathLayout<QueryDerivationOutputNames> {};

template <>
struct Layout<QueryPathFromHashPart> {
  using Owner = QueryPathFromHashPart;
  static constexpr auto fields = std::tuple{wire::field<wire::Text>("hashPart", &Owner::hash_part)};

  static Owner blank() { return {}; }
};

template <>
struct Layout<QuerySubstitutablePathInfos> {
  using Owner = QuerySubstitutablePathInfos;
  static constexpr auto fields =
      std::tuple{wire::field<PathAddressMap>("paths", &Owner::paths, Version{1, 22}),
                 wire::field<PathKeys>("paths", &Owner::paths, wire::kFirst, Version{1, 21})};

  static Owner blank() { return {}; }
};

template <>
struct Layout<QueryValidPaths> {
  using Owner = QueryValidPaths;
  static constexpr auto fields =
      std::tuple{wire::field<wire::PathList>("paths", &Owner::paths),
                 wire::field<wire::Flag>("substitute", &Owner::substitute, Version{1, 27})};

  static Owner blank() { return {}; }
};

template <>
struct Layout<QuerySubstitutablePaths> {
  using Owner = QuerySubstitutablePaths;
  static constexpr auto fields = std::tuple{wire::field<wire::PathList>("paths", &Owner::paths)};

  static Owner blank() { return {}; }
};

template <>
struct Layout<QueryValidDerivers> : PathLayout<QueryValidDerivers> {};

template <>
struct Layout<OptimiseStore> : EmptyLayout<OptimiseStore> {};

template <>
struct Layout<VerifyStore> {
  using Owner = VerifyStore;
  static constexpr auto fields =
      std::tuple{wire::field<wire::Flag>("checkContents", &Owner::check_contents),
                 wire::field<wire::Flag>("repair", &Owner::repair)};

  static Owner blank() { return {}; }
};

template <>
struct Layout<BuildDerivation> {
  using Owner = BuildDerivation;
  static constexpr auto fields = std::tuple{
      wire::field<wire::DerivationPath>("drvPath", &Owner::path),
      wire::field<wire::Group<wire::BasicDerivationLayout>>("derivation", &Owner::derivation),
      wire::field<BuildModeNumber>("mode", &Owner::mode)};

  static Owner blank() { return {placeholder_path(), {}, BuildMode::Normal}; }
};

template <>
struct Layout<AddSignatures> {
  using Owner = AddSignatures;
  static constexpr auto fields = std::tuple{wire::field<wire::Path>("path", &Owner::path),
                                            wire::field<wire::Texts>("sigs", &Owner::signatures)};

  static Owner blank() { return {placeholder_path(), {}}; }
};

template <>
struct Layout<NarFromPath> : PathLayout<NarFromPath> {};

template <>
struct Layout<AddToStoreNar> {
  using Owner = AddToStoreNar;
  static constexpr auto fields =
      std::tuple{wire::field<wire::Group<wire::ValidPathInfoLayout>>("info", &Owner::info),
                 wire::field<wire::Flag>("repair", &Owner::repair),
                 wire::field<wire::Flag>("dontCheckSigs", &Owner::dont_check_signatures)};

  static Owner blank() { return {wire::blank_path_info(), false, false}; }
};

template <>
struct Layout<QueryMissing> {
  using Owner = QueryMissing;
  static constexpr auto fields = std::tuple{wire::field<DerivedPaths>("targets", &Owner::targets)};

  static Owner blank() { return {}; }
};

template <>
struct Layout<QueryDerivationOutputMap> : PathLayout<QueryDerivationOutputMap> {};

template <>
struct Layout<RegisterDrvOutput> {
  using Owner = RegisterDrvOutput;
  static constexpr auto fields = std::tuple{
      wire::field<OutputByPath>("id", &Owner::id).when(wire::kRealisationsByPath),
      wire::field<PlainRealisation>("realisation", &Owner::realisation)
          .when(wire::kRealisationsByPath),
      wire::field<RealisationText>("realisation", wire::Whole(), Version{1, 31})
          .unless(wire::kRealisationsByPath),
      wire::field<OutputByHash>("id", &Owner::id, wire::kFirst, Version{1, 30}),
      wire::field_of<BaseName>(
          "outPath", &Owner::realisation, &model::Realisation::path, wire::kFirst, Version{1, 30})};

  static Owner blank() { return {{}, {placeholder_path(), {}}}; }
};

template <>
struct Layout<QueryRealisation> {
  using Owner = QueryRealisation;
  static constexpr auto fields =
      std::tuple{wire::field<OutputByPath>("id", &Owner::id).when(wire::kRealisationsByPath),
                 wire::field<OutputByHash>("id", &Owner::id).unless(wire::kRealisationsByPath)};

  static Owner blank() { return {}; }
};

template <>
struct Layout<AddMultipleToStore> {
  using Owner = AddMultipleToStore;
  static constexpr auto fields =
      std::tuple{wire::field<wire::Flag>("repair", &Owner::repair),
                 wire::field<wire::Flag>("dontCheckSigs", &Owner::dont_check_signatures)};

  static Owner blank() { return {}; }
};

template <>
struct Layout<AddBuildLog> {
  using Owner = AddBuildLog;
  static constexpr auto fields = std::tuple{wire::field<BaseName>("drvPath", &Owner::path)};

  static Owner blank() { return {placeholder_path()}; }
};

template <>
struct Layout<BuildPathsWithResults> : TargetsLayout<BuildPathsWithResults> {};

template <>
struct Layout<AddPermRoot> {
  using Owner = AddPermRoot;
  static constexpr auto fields = std::tuple{wire::field<wire::Path>("path", &Owner::path),
                                            wire::field<wire::Text>("gcRoot", &Owner::link)};

  static Owner blank() { return {placeholder_path(), {}}; }
};

/// One row per operation. Names, numbers, permission, dispatch and documentation derive from it.
struct Operation {
  std::uint64_t number;
  std::string_view name;
  Permission permission;
  Version since;
  std::size_t index; ///< of the request's type in Request
  std::size_t reply; ///< of its reply's type in Reply
  void (*shape)(Shape&, const Dialect&);
  Request (*read)(Decoder&);
};

template <class Variant, class T, std::size_t Index = 0>
constexpr std::size_t index_in() {
  if constexpr (std::is_same_v<std::variant_alternative_t<Index, Variant>, T>) {
    return Index;
  } else {
    return index_in<Variant, T, Index + 1>();
  }
}

/// Reads a `T` as an alternative of `Variant`.
template <class Variant, class T>
Variant read_alternative(Decoder& decoder) {
  T out = Layout<T>::blank();
  wire::read_fields<Layout<T>>(decoder, out);
  return out;
}

template <class R, class ReplyType>
constexpr Operation
operation(std::uint64_t number, std::string_view name, Permission permission, Version since) {
  return {number,
          name,
          permission,
          since,
          index_in<Request, R>(),
          index_in<Reply, ReplyType>(),
          &wire::shape_fields<Layout<R>>,
          &read_alternative<Request, R>};
}

/// EnsurePath, AddTempRoot, SyncWithGC and SetOptions need no more than StoreRead: there are no
/// substituters here, so they change nothing but the connection. Nor do OptimiseStore, which has
/// nothing to do here, and VerifyStore, which only looks.
inline constexpr std::array kOperations{
    operation<IsValidPath, NumberReply>(1, "IsValidPath", Permission::StoreRead, Version{1, 18}),
    operation<QueryReferrers, PathsReply>(
        6, "QueryReferrers", Permission::StoreRead, Version{1, 18}),
    operation<AddToStore, PathInfoReply>(7, "AddToStore", Permission::StoreWrite, Version{1, 18}),
    operation<AddTextToStore, PathReply>(
        8, "AddTextToStore", Permission::StoreWrite, Version{1, 18}),
    operation<BuildPaths, NumberReply>(9, "BuildPaths", Permission::BuildWrite, Version{1, 18}),
    operation<EnsurePath, NumberReply>(10, "EnsurePath", Permission::StoreRead, Version{1, 18}),
    operation<AddTempRoot, NumberReply>(11, "AddTempRoot", Permission::StoreRead, Version{1, 18}),
    operation<AddIndirectRoot, NumberReply>(
        12, "AddIndirectRoot", Permission::StoreWrite, Version{1, 18}),
    operation<SyncWithGC, NumberReply>(13, "SyncWithGC", Permission::StoreRead, Version{1, 18}),
    operation<FindRoots, RootsReply>(14, "FindRoots", Permission::StoreRead, Version{1, 18}),
    operation<QueryDeriver, OptionalPathReply>(
        18, "QueryDeriver", Permission::StoreRead, Version{1, 18}),
    operation<SetOptions, EmptyReply>(19, "SetOptions", Permission::StoreRead, Version{1, 18}),
    operation<CollectGarbage, GarbageReply>(
        20, "CollectGarbage", Permission::AccountWrite, Version{1, 18}),
    operation<QuerySubstitutablePathInfo, SubstitutableReply>(
        21, "QuerySubstitutablePathInfo", Permission::StoreRead, Version{1, 18}),
    operation<QueryDerivationOutputs, PathsReply>(
        22, "QueryDerivationOutputs", Permission::StoreRead, Version{1, 18}),
    operation<QueryAllValidPaths, PathsReply>(
        23, "QueryAllValidPaths", Permission::StoreRead, Version{1, 18}),
    operation<QueryPathInfo, QueryPathInfoReply>(
        26, "QueryPathInfo", Permission::StoreRead, Version{1, 18}),
    operation<QueryDerivationOutputNames, TextsReply>(
        28, "QueryDerivationOutputNames", Permission::StoreRead, Version{1, 18}),
    operation<QueryPathFromHashPart, OptionalPathReply>(
        29, "QueryPathFromHashPart", Permission::StoreRead, Version{1, 18}),
    operation<QuerySubstitutablePathInfos, SubstitutablesReply>(
        30, "QuerySubstitutablePathInfos", Permission::StoreRead, Version{1, 18}),
    operation<QueryValidPaths, PathsReply>(
        31, "QueryValidPaths", Permission::StoreRead, Version{1, 18}),
    operation<QuerySubstitutablePaths, PathsReply>(
        32, "QuerySubstitutablePaths", Permission::StoreRead, Version{1, 18}),
    operation<QueryValidDerivers, PathsReply>(
        33, "QueryValidDerivers", Permission::StoreRead, Version{1, 18}),
    operation<OptimiseStore, NumberReply>(
        34, "OptimiseStore", Permission::StoreRead, Version{1, 18}),
    operation<VerifyStore, NumberReply>(35, "VerifyStore", Permission::StoreRead, Version{1, 18}),
    operation<BuildDerivation, BuildReply>(
        36, "BuildDerivation", Permission::BuildWrite, Version{1, 18}),
    operation<AddSignatures, NumberReply>(
        37, "AddSignatures", Permission::StoreWrite, Version{1, 18}),
    operation<NarFromPath, EmptyReply>(38, "NarFromPath", Permission::StoreRead, Version{1, 18}),
    operation<AddToStoreNar, EmptyReply>(
        39, "AddToStoreNar", Permission::StoreWrite, Version{1, 18}),
    operation<QueryMissing, MissingReply>(
        40, "QueryMissing", Permission::StoreRead, Version{1, 19}),
    operation<QueryDerivationOutputMap, OutputMapReply>(
        41, "QueryDerivationOutputMap", Permission::StoreRead, Version{1, 22}),
    operation<RegisterDrvOutput, EmptyReply>(
        42, "RegisterDrvOutput", Permission::StoreWrite, Version{1, 27}),
    operation<QueryRealisation, RealisationsReply>(
        43, "QueryRealisation", Permission::StoreRead, Version{1, 27}),
    operation<AddMultipleToStore, EmptyReply>(
        44, "AddMultipleToStore", Permission::StoreWrite, Version{1, 32}),
    operation<AddBuildLog, NumberReply>(45, "AddBuildLog", Permission::BuildWrite, Version{1, 32}),
    operation<BuildPathsWithResults, BuildsReply>(
        46, "BuildPathsWithResults", Permission::BuildWrite, Version{1, 34}),
    operation<AddPermRoot, TextReply>(47, "AddPermRoot", Permission::StoreWrite, Version{1, 36}),
};

/// Below it the reply to AddToStore is a PathReply.
inline constexpr Version kPathInfoFromAddToStore{1, 25};

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

} // namespace nixbuild::protocol::worker
