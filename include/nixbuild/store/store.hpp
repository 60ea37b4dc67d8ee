#pragma once

#include <nixbuild/base/clock.hpp>
#include <nixbuild/model/content_address.hpp>
#include <nixbuild/model/path_info.hpp>
#include <nixbuild/nar/event.hpp>
#include <nixbuild/segment/reader.hpp>
#include <nixbuild/store/metadata_db.hpp>
#include <nixbuild/store/segment_store.hpp>

#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

namespace nixbuild::store {

/// Keeps paths from being collected. Releases them when destroyed. Thread safe. Must not outlive
/// its Store. (Decision D6: in memory; the one daemon is the only one that collects.)
class NIXBUILD_API Lease {
public:
  Lease();
  ~Lease();
  Lease(Lease&&) noexcept;
  Lease& operator=(Lease&&) noexcept;

  void add(const model::StorePath& path);
  void add(std::span<const model::StorePath> paths);

private:
  friend class Store;
  struct State;
  std::unique_ptr<State> state_;
};

/// What is announced about a NAR before its bytes come. Where nothing is announced (an output of a
/// build, an export stream) the fields are absent and taken from the bytes.
struct ImportRequest {
  model::StorePath path;
  std::optional<model::StorePath> deriver;
  std::optional<Hash> nar_hash;
  std::optional<std::uint64_t> nar_size; ///< 0 is refused
  model::StorePaths references;          ///< ignored when `scan_for` is not empty
  std::int64_t registration_time = 0;    ///< 0: now
  bool ultimate = false;
  std::vector<std::string> signatures;
  std::string content_address;
  model::StorePaths scan_for; ///< candidates of a reference scan
};

/// One path on its way in: parse, digest, scan and write in one pass (decision D1). Destroying it
/// without `finish` leaves no trace. Not thread safe; calls block on the disk.
class NIXBUILD_API Import {
public:
  ~Import();
  Import(Import&&) noexcept;
  Import& operator=(Import&&) noexcept;

  /// Takes bytes; returns how many belonged to the NAR (less than given: it ended). Errors:
  /// `nar.*`, `store.nar-size`, `store.disk-full`, `store.account-full`.
  std::size_t feed(ByteView bytes);
  [[nodiscard]] bool complete() const noexcept;

  /// Checks hash, size and content address, and makes the contents durable; registers nothing.
  /// Errors: `nar.truncated`, `store.nar-hash`, `store.nar-size`, `store.content-address`.
  [[nodiscard]] model::PathInfo seal();
  /// The same for an import that began without a name (export streams say it behind the archive):
  /// what `request` announces is checked now. `request.scan_for` must be empty.
  [[nodiscard]] model::PathInfo seal_as(ImportRequest request);
  /// The same as the content-addressed path of that name that its archive makes (a source, without
  /// a reference to itself). `made` is what the caller made of the whole archive, where its
  /// SHA-256 is not what is asked for. Errors: `nar.truncated`, `store-path.name`,
  /// `content-address.references`.
  [[nodiscard]] model::PathInfo
  seal_as_source(std::string_view name,
                 const model::StorePaths& references,
                 const std::optional<model::ContentAddress>& made = {});
  /// What the scan for `scan_for` has found in the bytes so far, sorted.
  [[nodiscard]] model::StorePaths found_references() const;
  /// Ends an import whose name was only a place holder: contents and what the scan has found make
  /// the path. `address` is what the caller made of the whole archive; among the references is none
  /// to the place holder. Errors: `nar.truncated`, `store-path.name`, `content-address.references`.
  [[nodiscard]] model::PathInfo seal_as_made(std::string_view name,
                                             const model::ContentAddress& address);

private:
  friend class Store;
  struct State;
  explicit Import(std::unique_ptr<State> state);
  std::unique_ptr<State> state_;
};

/// A NAR on its way out. Holds its segment open. Not thread safe.
class NIXBUILD_API Export {
public:
  ~Export();
  Export(Export&&) noexcept;
  Export& operator=(Export&&) noexcept;

  [[nodiscard]] const model::PathInfo& info() const noexcept;
  /// Next piece, or nothing at the end; DataPiece ranges lie in `data_fd`.
  [[nodiscard]] std::optional<segment::NarPiece> next();
  [[nodiscard]] int data_fd() const noexcept;
  [[nodiscard]] std::uint64_t data_bytes() const noexcept;
  [[nodiscard]] const segment::Tree& tree() const noexcept;
  [[nodiscard]] ByteView metadata() const noexcept;
  /// Contents of a regular file of the tree, wherever they lie. Error `store.file-limit` when it
  /// is larger than `limit` bytes.
  [[nodiscard]] std::string read_file(const segment::Node& file, std::uint64_t limit) const;

private:
  friend class Store;
  struct State;
  explicit Export(std::unique_ptr<State> state);
  std::unique_ptr<State> state_;
};

/// What `verify` found wrong with one path.
struct VerifyFinding {
  model::StorePath path;
  std::string code; ///< `store.missing-segment`, `store.nar-hash`, `segment.corrupt`, …
  std::string message;
};

struct GcResult {
  std::uint64_t paths_removed = 0;
  std::uint64_t bytes_freed = 0;
  model::StorePaths removed; ///< sorted
};

/// What a collection may take.
struct GcOrder {
  std::span<const model::StorePath> roots{}; ///< kept, with all they need
  /// Only these go; absent: whatever nobody needs. Error `store.in-use` naming one that is needed.
  std::optional<model::StorePaths> only{};
  /// With `only`: what refers to them goes, too; else that is an error `store.referenced`.
  bool with_referrers = true;
  /// It ends once paths of so many NAR bytes have been removed; absent: with the last one.
  std::optional<std::uint64_t> enough_bytes{};
};

/// The store of this machine: names per account, contents once. Thread safe; every call may block
/// on the disk, so an event loop makes them on a blocking pool.
class NIXBUILD_API Store {
public:
  /// The ports and the clock outlive the store.
  Store(MetadataDb& db, SegmentStore& segments, const Clock& clock, model::StoreDir dir);
  ~Store();
  Store(const Store&) = delete;
  Store& operator=(const Store&) = delete;

  [[nodiscard]] const model::StoreDir& dir() const noexcept;
  [[nodiscard]] MetadataDb& db() noexcept;

  [[nodiscard]] Lease lease(AccountId account);

  /// The NAR bytes that the account's paths may have together, from now on; absent: as many as
  /// there are. What is there already stays.
  void set_max_bytes(AccountId account, std::optional<std::uint64_t> bytes);

  /// Errors: `store.nar-size` for an announced size of 0, `store.account-full` (Denied) when the
  /// announced size exceeds what the account may have.
  [[nodiscard]] Import begin_import(AccountId account, ImportRequest request);
  /// An import whose name is not known yet; ends in `Import::seal_as`.
  [[nodiscard]] Import begin_import(AccountId account);
  /// Registers sealed paths in one transaction. Errors as MetadataDb::register_paths,
  /// `store.account-full` (Denied), and `derivation.paths` for a `.drv` whose outputs are not those
  /// that follow from it, as far as what is behind it is there.
  void commit(AccountId account, std::span<const model::PathInfo> infos);
  /// The same together with the end of the build that made them, as MetadataDb::end_build. False:
  /// it was another attempt's build, and nothing was registered.
  [[nodiscard]] bool end_build(const BuildRecord& record,
                               std::span<const model::PathInfo> outputs,
                               const BuildOutcome* outcome);

  /// Error `store.invalid-path` when the account has no such path, `store.missing-segment`.
  [[nodiscard]] Export open_export(AccountId account, const model::StorePath& path);

  /// Regenerates the NAR of each path (all of the account when empty), compares hash and size, and
  /// checks that references are valid.
  [[nodiscard]] std::vector<VerifyFinding> verify(AccountId account,
                                                  std::span<const model::StorePath> paths);

  /// Removes every path of the account that is neither leased nor needed by a leased path or one of
  /// `roots`; then the segments nobody names.
  GcResult collect_garbage(AccountId account, std::span<const model::StorePath> roots);
  GcResult collect(AccountId account, const GcOrder& order);
  /// What a collection that keeps `roots` would leave now, sorted. The rest of all_paths it would
  /// remove.
  [[nodiscard]] model::StorePaths live_paths(AccountId account,
                                             std::span<const model::StorePath> roots);
  /// The account's paths that are leased themselves, sorted.
  [[nodiscard]] model::StorePaths leased_paths(AccountId account);

private:
  friend class DerivationHashes;
  struct State;
  std::unique_ptr<State> state_;
};

} // namespace nixbuild::store
