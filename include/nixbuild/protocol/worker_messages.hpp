#pragma once

#include <nixbuild/model/build.hpp>
#include <nixbuild/model/content_address.hpp>
#include <nixbuild/model/derivation.hpp>
#include <nixbuild/model/path_info.hpp>
#include <nixbuild/protocol/derived_path.hpp>
#include <nixbuild/protocol/wire.hpp>

#include <chrono>
#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <utility>
#include <variant>
#include <vector>

/// What the two sides of the worker protocol say to each other: one type a request, one type a form
/// of reply. Source: protocol facts 3.4 and 3.5.
namespace nixbuild::protocol::worker {

enum class BuildMode : std::uint8_t { Normal = 0, Repair = 1, Check = 2 };

enum class GcAction : std::uint8_t {
  ReturnLive = 0,
  ReturnDead = 1,
  DeleteDead = 2,
  DeleteSpecific = 3,
};

/// An output of a derivation: by the derivation's path where the peer has the feature
/// `realisation-with-path-not-hash`, otherwise by its hash.
struct DrvOutput {
  std::variant<Hash, model::StorePath> derivation;
  std::string output;
  bool operator==(const DrvOutput&) const = default;
};

// Requests, named as in the protocol.

struct IsValidPath {
  model::StorePath path;
  bool operator==(const IsValidPath&) const = default;
};

struct QueryReferrers {
  model::StorePath path;
  bool operator==(const QueryReferrers&) const = default;
};

/// Contents follow: from 1.25 framed, a NAR for the methods NixArchive and Git, otherwise the
/// file's bytes; below always a NAR, unframed.
struct AddToStore {
  std::string name;
  model::MethodAlgorithm method; ///< below 1.25 only Flat and NixArchive
  model::StorePaths references;  ///< sorted, unique; below 1.25 none
  bool repair = false;           ///< below 1.25 always false
  bool operator==(const AddToStore&) const = default;
};

struct AddTextToStore {
  std::string name;
  std::string contents;
  model::StorePaths references; ///< sorted, unique
  bool operator==(const AddTextToStore&) const = default;
};

struct BuildPaths {
  std::vector<DerivedPath> targets;
  BuildMode mode = BuildMode::Normal;
  bool operator==(const BuildPaths&) const = default;
};

struct EnsurePath {
  model::StorePath path;
  bool operator==(const EnsurePath&) const = default;
};

struct AddTempRoot {
  model::StorePath path;
  bool operator==(const AddTempRoot&) const = default;
};

struct AddIndirectRoot {
  std::string link; ///< a path of the server's file system
  bool operator==(const AddIndirectRoot&) const = default;
};

struct SyncWithGC {
  bool operator==(const SyncWithGC&) const = default;
};

struct FindRoots {
  bool operator==(const FindRoots&) const = default;
};

struct QueryDeriver {
  model::StorePath path;
  bool operator==(const QueryDeriver&) const = default;
};

/// ssh-ng clients never send it.
struct SetOptions {
  bool keep_failed = false;
  bool keep_going = false;
  bool try_fallback = false;
  std::uint32_t verbosity = 0;
  std::uint32_t max_build_jobs = 0;
  std::chrono::seconds max_silent_time{0};
  std::uint32_t verbose_build = 0; ///< 0: verbose, 7: quiet
  std::uint32_t build_cores = 0;
  bool use_substitutes = false;
  std::map<std::string, std::string> overrides; ///< setting → value
  bool operator==(const SetOptions&) const = default;
};

struct CollectGarbage {
  GcAction action = GcAction::DeleteDead;
  /// Whether all of the store is meant or only `paths`. Crosses with the feature
  /// `delete-dead-specific-referrers`; without it, it follows from `action`.
  bool whole_store = true;
  model::StorePaths paths;       ///< sorted, unique
  bool delete_referrers = false; ///< with the feature and without `whole_store`
  bool ignore_liveness = false;
  std::uint64_t max_freed = 0;
  bool operator==(const CollectGarbage&) const = default;
};

struct QuerySubstitutablePathInfo {
  model::StorePath path;
  bool operator==(const QuerySubstitutablePathInfo&) const = default;
};

struct QueryDerivationOutputs {
  model::StorePath path;
  bool operator==(const QueryDerivationOutputs&) const = default;
};

struct QueryAllValidPaths {
  bool operator==(const QueryAllValidPaths&) const = default;
};

struct QueryPathInfo {
  model::StorePath path;
  bool operator==(const QueryPathInfo&) const = default;
};

struct QueryDerivationOutputNames {
  model::StorePath path;
  bool operator==(const QueryDerivationOutputNames&) const = default;
};

struct QueryPathFromHashPart {
  std::string hash_part;
  bool operator==(const QueryPathFromHashPart&) const = default;
};

struct QuerySubstitutablePathInfos {
  std::map<model::StorePath, std::string> paths; ///< → content address; empty: none
  bool operator==(const QuerySubstitutablePathInfos&) const = default;
};

struct QueryValidPaths {
  model::StorePaths paths; ///< in the client's order
  bool substitute = false; ///< since 1.27
  bool operator==(const QueryValidPaths&) const = default;
};

struct QuerySubstitutablePaths {
  model::StorePaths paths; ///< in the client's order
  bool operator==(const QuerySubstitutablePaths&) const = default;
};

struct QueryValidDerivers {
  model::StorePath path;
  bool operator==(const QueryValidDerivers&) const = default;
};

struct OptimiseStore {
  bool operator==(const OptimiseStore&) const = default;
};

struct VerifyStore {
  bool check_contents = false;
  bool repair = false;
  bool operator==(const VerifyStore&) const = default;
};

struct BuildDerivation {
  model::StorePath path;
  model::BasicDerivation derivation;
  BuildMode mode = BuildMode::Normal;
  bool operator==(const BuildDerivation&) const = default;
};

struct AddSignatures {
  model::StorePath path;
  std::vector<std::string> signatures;
  bool operator==(const AddSignatures&) const = default;
};

/// The reply is a raw NAR.
struct NarFromPath {
  model::StorePath path;
  bool operator==(const NarFromPath&) const = default;
};

/// The NAR follows: from 1.23 framed; 1.21 and 1.22 pulled with STDERR_READ; below raw.
struct AddToStoreNar {
  model::PathInfo info;
  bool repair = false;
  bool dont_check_signatures = false;
  bool operator==(const AddToStoreNar&) const = default;
};

struct QueryMissing {
  std::vector<DerivedPath> targets;
  bool operator==(const QueryMissing&) const = default;
};

struct QueryDerivationOutputMap {
  model::StorePath path;
  bool operator==(const QueryDerivationOutputMap&) const = default;
};

struct RegisterDrvOutput {
  DrvOutput id;
  model::Realisation realisation; ///< below 1.31 without signatures
  bool operator==(const RegisterDrvOutput&) const = default;
};

struct QueryRealisation {
  DrvOutput id;
  bool operator==(const QueryRealisation&) const = default;
};

/// Frames follow that carry a PathInfoStream.
struct AddMultipleToStore {
  bool repair = false;
  bool dont_check_signatures = false;
  bool operator==(const AddMultipleToStore&) const = default;
};

/// The log follows, framed.
struct AddBuildLog {
  model::StorePath path; ///< of the derivation; its base name crosses
  bool operator==(const AddBuildLog&) const = default;
};

struct BuildPathsWithResults {
  std::vector<DerivedPath> targets;
  BuildMode mode = BuildMode::Normal;
  bool operator==(const BuildPathsWithResults&) const = default;
};

struct AddPermRoot {
  model::StorePath path;
  std::string link;
  bool operator==(const AddPermRoot&) const = default;
};

using Request = std::variant<IsValidPath,
                             QueryReferrers,
                             AddToStore,
                             AddTextToStore,
                             BuildPaths,
                             EnsurePath,
                             AddTempRoot,
                             AddIndirectRoot,
                             SyncWithGC,
                             FindRoots,
                             QueryDeriver,
                             SetOptions,
                             CollectGarbage,
                             QuerySubstitutablePathInfo,
                             QueryDerivationOutputs,
                             QueryAllValidPaths,
                             QueryPathInfo,
                             QueryDerivationOutputNames,
                             QueryPathFromHashPart,
                             QuerySubstitutablePathInfos,
                             QueryValidPaths,
                             QuerySubstitutablePaths,
                             QueryValidDerivers,
                             OptimiseStore,
                             VerifyStore,
                             BuildDerivation,
                             AddSignatures,
                             NarFromPath,
                             AddToStoreNar,
                             QueryMissing,
                             QueryDerivationOutputMap,
                             RegisterDrvOutput,
                             QueryRealisation,
                             AddMultipleToStore,
                             AddBuildLog,
                             BuildPathsWithResults,
                             AddPermRoot>;

// Replies: what follows STDERR_LAST.

/// Nothing: SetOptions, AddToStoreNar, RegisterDrvOutput, AddMultipleToStore. NarFromPath, too: its
/// NAR is the caller's to send or take.
struct EmptyReply {
  bool operator==(const EmptyReply&) const = default;
};

/// Flags (0 or 1) and the 1 that says that an operation was done: IsValidPath, VerifyStore (1:
/// errors were left), BuildPaths, EnsurePath, AddTempRoot, AddIndirectRoot, SyncWithGC,
/// OptimiseStore, AddSignatures, AddBuildLog.
struct NumberReply {
  std::uint64_t value = 1;
  bool operator==(const NumberReply&) const = default;
};

/// AddTextToStore; AddToStore below 1.25.
struct PathReply {
  model::StorePath path;
  bool operator==(const PathReply&) const = default;
};

/// QueryDeriver, QueryPathFromHashPart.
struct OptionalPathReply {
  std::optional<model::StorePath> path;
  bool operator==(const OptionalPathReply&) const = default;
};

/// QueryReferrers, QueryDerivationOutputs, QueryAllValidPaths, QueryValidPaths,
/// QuerySubstitutablePaths, QueryValidDerivers. Clients expect them sorted.
struct PathsReply {
  model::StorePaths paths;
  bool operator==(const PathsReply&) const = default;
};

/// AddPermRoot: the link.
struct TextReply {
  std::string text;
  bool operator==(const TextReply&) const = default;
};

/// QueryDerivationOutputNames.
struct TextsReply {
  std::vector<std::string> texts;
  bool operator==(const TextsReply&) const = default;
};

/// AddToStore from 1.25.
struct PathInfoReply {
  model::PathInfo info;
  bool operator==(const PathInfoReply&) const = default;
};

/// QueryPathInfo; nothing: the path is not valid. The path itself does not cross.
struct QueryPathInfoReply {
  std::optional<model::PathInfo> info;
  bool operator==(const QueryPathInfoReply&) const = default;
};

/// FindRoots.
struct RootsReply {
  std::vector<std::pair<std::string, model::StorePath>> roots; ///< link, target
  bool operator==(const RootsReply&) const = default;
};

/// CollectGarbage.
struct GarbageReply {
  std::vector<std::string> paths; ///< full paths: live, dead, or deleted, as asked
  std::uint64_t bytes_freed = 0;
  bool operator==(const GarbageReply&) const = default;
};

/// What a substituter says of a path.
struct SubstitutableInfo {
  std::optional<model::StorePath> deriver;
  model::StorePaths references; ///< sorted, unique
  std::uint64_t download_size = 0;
  std::uint64_t nar_size = 0;
  bool operator==(const SubstitutableInfo&) const = default;
};

/// QuerySubstitutablePathInfo.
struct SubstitutableReply {
  std::optional<SubstitutableInfo> info;
  bool operator==(const SubstitutableReply&) const = default;
};

/// QuerySubstitutablePathInfos.
struct SubstitutablesReply {
  std::map<model::StorePath, SubstitutableInfo> infos;
  bool operator==(const SubstitutablesReply&) const = default;
};

/// QueryMissing.
struct MissingReply {
  model::StorePaths will_build;      ///< derivations; sorted, unique
  model::StorePaths will_substitute; ///< sorted, unique
  model::StorePaths unknown;         ///< sorted, unique
  std::uint64_t download_size = 0;
  std::uint64_t nar_size = 0;
  bool operator==(const MissingReply&) const = default;
};

/// QueryDerivationOutputMap.
struct OutputMapReply {
  std::map<std::string, std::optional<model::StorePath>> outputs;
  bool operator==(const OutputMapReply&) const = default;
};

/// BuildDerivation.
struct BuildReply {
  model::BuildResult result; ///< a success; or a failure 3 to 12 or 14, never an exit status (T3)
  /// Output name → hash, from model::realisation_hashes: how peers without the feature
  /// `realisation-with-path-not-hash` name outputs. One that is not in it gets the zero hash.
  std::map<std::string, Hash> keys;
  bool operator==(const BuildReply&) const = default;
};

struct TargetResult {
  DerivedPath target; ///< as it was asked for
  BuildReply reply;
  bool operator==(const TargetResult&) const = default;
};

/// BuildPathsWithResults.
struct BuildsReply {
  std::vector<TargetResult> results; ///< one a target
  bool operator==(const BuildsReply&) const = default;
};

/// QueryRealisation: none or one, more only from peers without the feature
/// `realisation-with-path-not-hash`. Below 1.31 without signatures.
struct RealisationsReply {
  DrvOutput id; ///< as it was asked for; crosses only from 1.31 without the feature
  std::vector<model::Realisation> realisations;
  bool operator==(const RealisationsReply&) const = default;
};

using Reply = std::variant<EmptyReply,
                           NumberReply,
                           PathReply,
                           OptionalPathReply,
                           PathsReply,
                           TextReply,
                           TextsReply,
                           PathInfoReply,
                           QueryPathInfoReply,
                           RootsReply,
                           GarbageReply,
                           SubstitutableReply,
                           SubstitutablesReply,
                           MissingReply,
                           OutputMapReply,
                           BuildReply,
                           BuildsReply,
                           RealisationsReply>;

} // namespace nixbuild::protocol::worker
