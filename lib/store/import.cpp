#include "content_check.hpp"
#include "store_state.hpp"

#include <nixbuild/base/encoding.hpp>
#include <nixbuild/base/error.hpp>
#include <nixbuild/nar/reader.hpp>
#include <nixbuild/nar/reference_scan.hpp>
#include <nixbuild/segment/writer.hpp>

#include <fmt/format.h>

#include <algorithm>
#include <shared_mutex>
#include <utility>

namespace nixbuild::store {

namespace {

/// Bytes that go through parser, digest and scan together: they stay in the cache of a core.
constexpr std::size_t kSlice = 128 * kKiB;

/// For a NAR whose contents nobody wants.
class NoEvents final : public nar::EventSink {
public:
  void regular(bool, std::uint64_t) override {}

  void contents(ByteView) override {}

  void regular_end() override {}

  void symlink(std::string_view) override {}

  void directory() override {}

  void entry(std::string_view) override {}

  void directory_end() override {}
};

std::vector<std::string> hash_parts(const model::StorePaths& paths) {
  std::vector<std::string> parts;
  parts.reserve(paths.size());
  for (const auto& path : paths) {
    parts.emplace_back(path.hash_part());
  }
  return parts;
}

/// Where the contents of one import go.
struct Recording {
  Recording(const model::StoreDir& dir, SegmentStore& segments, const ImportRequest& request)
      : draft(segments.begin()), writer(draft->data(), draft->metadata()),
        check(dir, request, writer), hasher(HashAlgorithm::Sha256) {
    if (!request.scan_for.empty()) {
      scanner.emplace(hash_parts(request.scan_for));
    }
  }

  /// Of all that was taken. Nothing may be taken afterwards.
  const Hash& nar_hash() {
    if (!digest) {
      digest = hasher.finish();
    }
    return *digest;
  }

  void take(ByteView bytes) {
    hasher.update(bytes);
    check.nar_bytes(bytes);
    if (scanner) {
      scanner->feed(bytes);
    }
  }

  std::unique_ptr<SegmentDraft> draft;
  segment::Writer writer;
  ContentCheck check;
  Hasher hasher;
  std::optional<Hash> digest;
  std::optional<nar::ReferenceScanner> scanner;
};

} // namespace

struct Import::State {
  State(StoreState& of, AccountId whose, ImportRequest what)
      : store(of), account(whose), request(std::move(what)) {
    check_request();
    hold();
    try {
      existing = store.db.path_info(account, request.path);
      if (!existing) {
        if (request.nar_size) {
          store.room.expect(account, *request.nar_size);
        } else {
          most = store.room.left(account);
        }
        recording.emplace(store.dir, store.segments, request);
        reader.emplace(recording->check);
      } else if (!request.nar_size) {
        reader.emplace(nothing);
      }
    } catch (...) {
      release();
      throw;
    }
  }

  ~State() { release(); }

  State(const State&) = delete;
  State& operator=(const State&) = delete;

  void check_request();
  void hold();
  void release();
  std::size_t skip(ByteView bytes);
  std::size_t feed_slice(ByteView bytes);
  [[noreturn]] void fail_size(std::string_view what) const;
  [[nodiscard]] model::StorePaths scanned() const;
  void rename(const model::StorePath& path);
  [[nodiscard]] model::PathInfo take_existing();
  [[nodiscard]] model::PathInfo complete();

  StoreState& store;
  AccountId account;
  ImportRequest request;
  std::vector<PathKey> held;
  std::optional<model::PathInfo> existing; ///< valid already: bytes are only consumed
  NoEvents nothing;
  std::optional<Recording> recording;
  std::optional<nar::Reader> reader; ///< none when bytes are only counted
  std::uint64_t taken = 0;
  std::optional<std::uint64_t> most; ///< what fits, where no size was announced
  bool sealed = false;
};

void Import::State::fail_size(std::string_view what) const {
  throw Error(Reaction::Reject,
              "store.nar-size",
              fmt::format("path '{}': the NAR {} the announced {} bytes",
                          request.path.base_name(),
                          what,
                          request.nar_size.value_or(0)));
}

void Import::State::check_request() {
  if (request.nar_size == std::uint64_t{0}) {
    throw Error(Reaction::Reject,
                "store.nar-size",
                fmt::format("path '{}': the announced NAR size is 0", request.path.base_name()));
  }
  if (request.nar_hash && request.nar_hash->algorithm() != HashAlgorithm::Sha256) {
    throw Error(Reaction::Reject,
                "store.nar-hash",
                fmt::format("path '{}': the announced NAR hash is {}, not sha256",
                            request.path.base_name(),
                            name_of(request.nar_hash->algorithm())));
  }
  model::sort_unique(request.references);
  model::sort_unique(request.scan_for);
}

void Import::State::hold() {
  held.push_back(key_of(request.path));
  for (const auto& reference : request.references) {
    held.push_back(key_of(reference));
  }
  for (const auto& candidate : request.scan_for) {
    held.push_back(key_of(candidate));
  }
  const std::shared_lock shared(store.name_gate);
  for (const auto& key : held) {
    store.hold(account, key);
  }
}

void Import::State::release() {
  for (const auto& key : held) {
    store.release(account, key);
  }
  held.clear();
}

std::size_t Import::State::skip(ByteView bytes) {
  const auto count =
      static_cast<std::size_t>(std::min<std::uint64_t>(bytes.size(), *request.nar_size - taken));
  taken += count;
  return count;
}

std::size_t Import::State::feed_slice(ByteView bytes) {
  if (request.nar_size) {
    const auto left = *request.nar_size - taken;
    if (left == 0) {
      fail_size("is longer than");
    }
    bytes = bytes.first(static_cast<std::size_t>(std::min<std::uint64_t>(bytes.size(), left)));
  }
  const auto count = reader->feed(bytes);
  if (recording) {
    recording->take(bytes.first(count));
  }
  taken += count;
  if (most && taken > *most) {
    store.room.expect(account, taken); // throws, unless room was made meanwhile
    most = store.room.left(account);
  }
  return count;
}

model::PathInfo Import::State::take_existing() {
  if (reader) {
    reader->expect_finished();
  } else if (taken < *request.nar_size) {
    throw Error(Reaction::Reject,
                "nar.truncated",
                fmt::format("path '{}': only {} of {} bytes came",
                            request.path.base_name(),
                            taken,
                            *request.nar_size));
  }
  store.seal(account, *existing);
  return *existing;
}

model::StorePaths Import::State::scanned() const {
  model::StorePaths references;
  if (recording && recording->scanner) {
    for (const auto index : recording->scanner->found()) {
      references.push_back(request.scan_for[index]);
    }
  }
  return references;
}

/// From now on the import is of that path.
void Import::State::rename(const model::StorePath& path) {
  release();
  request.path = path;
  hold();
  existing = store.db.path_info(account, path);
}

model::PathInfo Import::State::complete() {
  reader->expect_finished();
  if (request.nar_size && taken != *request.nar_size) {
    fail_size("is shorter than");
  }
  auto& parts = *recording;
  model::PathInfo info{.path = request.path,
                       .deriver = request.deriver,
                       .nar_hash = parts.nar_hash(),
                       .nar_size = taken,
                       .references = request.references,
                       .registration_time = request.registration_time,
                       .ultimate = request.ultimate,
                       .signatures = request.signatures,
                       .content_address = {}};
  if (request.nar_hash && info.nar_hash != *request.nar_hash) {
    throw Error(Reaction::Reject,
                "store.nar-hash",
                fmt::format("path '{}': the NAR has hash sha256:{}, announced was sha256:{}",
                            request.path.base_name(),
                            nix32_encode(info.nar_hash.bytes()),
                            nix32_encode(request.nar_hash->bytes())));
  }
  if (parts.scanner) {
    info.references = scanned();
  }
  if (info.registration_time == 0) {
    info.registration_time = unix_seconds(store.clock.wall());
  }
  parts.check.finish(info);
  parts.writer.finish();
  const std::shared_lock shared(store.segment_gate);
  parts.draft->commit(info.nar_hash);
  store.seal(account, info);
  return info;
}

Import Store::begin_import(AccountId account, ImportRequest request) {
  return Import(std::make_unique<Import::State>(*state_, account, std::move(request)));
}

namespace {

/// Stands for the name of an archive whose name comes behind it. Its digest is all zeros, which no
/// real path has.
model::StorePath name_to_come() {
  return model::StorePath(Bytes(20), "name-to-come");
}

} // namespace

Import Store::begin_import(AccountId account) {
  ImportRequest request{.path = name_to_come(),
                        .deriver = {},
                        .nar_hash = {},
                        .nar_size = {},
                        .references = {},
                        .signatures = {},
                        .content_address = {},
                        .scan_for = {}};
  return begin_import(account, std::move(request));
}

model::PathInfo Import::seal_as(ImportRequest request) {
  if (!request.scan_for.empty() || !request.content_address.empty()) {
    throw Error(Reaction::Internal,
                "store.late-name",
                "an import that is named late can neither scan nor check a content address");
  }
  state_->release();
  state_->request = std::move(request);
  state_->check_request();
  state_->hold();
  state_->existing = state_->store.db.path_info(state_->account, state_->request.path);
  return seal();
}

model::PathInfo Import::seal_as_source(std::string_view name,
                                       const model::StorePaths& references,
                                       const std::optional<model::ContentAddress>& made) {
  state_->reader->expect_finished();
  const model::ContentAddress plain{model::ContentAddressMethod::NixArchive,
                                    state_->recording->nar_hash()};
  const auto& address = made ? *made : plain;
  const auto path =
      model::make_content_addressed_path(state_->store.dir, name, address, references, false);
  auto info = seal_as({.path = path,
                       .deriver = {},
                       .nar_hash = {},
                       .nar_size = {},
                       .references = references,
                       .registration_time = 0,
                       .ultimate = false,
                       .signatures = {},
                       .content_address = {},
                       .scan_for = {}});
  // Nothing to compare: the path has just been made from the contents.
  if (info.content_address.empty()) {
    info.content_address = model::print(address);
  }
  return info;
}

model::StorePaths Import::found_references() const {
  return state_->scanned();
}

model::PathInfo Import::seal_as_made(std::string_view name, const model::ContentAddress& address) {
  state_->reader->expect_finished();
  state_->rename(model::make_content_addressed_path(
      state_->store.dir, name, address, state_->scanned(), false));
  auto info = seal();
  if (info.content_address.empty()) {
    info.content_address = model::print(address);
  }
  return info;
}

Import::Import(std::unique_ptr<State> state) : state_(std::move(state)) {}

Import::~Import() = default;
Import::Import(Import&&) noexcept = default;
Import& Import::operator=(Import&&) noexcept = default;

std::size_t Import::feed(ByteView bytes) {
  if (!state_->reader) {
    return state_->skip(bytes);
  }
  std::size_t used = 0;
  while (used < bytes.size() && !state_->reader->finished()) {
    used += state_->feed_slice(bytes.subspan(used, std::min(kSlice, bytes.size() - used)));
  }
  return used;
}

bool Import::complete() const noexcept {
  return state_->reader ? state_->reader->finished() : state_->taken == state_->request.nar_size;
}

model::PathInfo Import::seal() {
  if (state_->sealed) {
    throw Error(Reaction::Internal, "store.sealed", "an import is sealed twice");
  }
  auto info = state_->existing ? state_->take_existing() : state_->complete();
  state_->sealed = true;
  state_->recording.reset();
  return info;
}

} // namespace nixbuild::store
