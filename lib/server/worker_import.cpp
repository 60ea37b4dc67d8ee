#include "path_batch.hpp"
#include "spool.hpp"
#include "worker_state.hpp"

#include <nixbuild/base/error.hpp>
#include <nixbuild/model/content_address.hpp>
#include <nixbuild/nar/git_digest.hpp>
#include <nixbuild/nar/reader.hpp>
#include <nixbuild/nar/writer.hpp>
#include <nixbuild/protocol/path_info_stream.hpp>

#include <fmt/format.h>

#include <algorithm>
#include <utility>

namespace nixbuild::server {

namespace worker = protocol::worker;

namespace {

using Method = model::ContentAddressMethod;

/// An archive without a frame: whoever parses it finds its end.
class BareArchive {
public:
  BareArchive(worker::RequestReader& reader, std::function<aio::Task<bool>()> fill)
      : reader_(reader), fill_(std::move(fill)) {}

  /// Feeds `import` until the archive is complete.
  aio::Task<void> feed(store::Import& import, aio::BlockingPool& pool) {
    while (!import.complete()) {
      auto take = [&import](ByteView bytes) {
        return import.feed(bytes);
      };
      co_await hand_on(pool, std::move(take));
    }
  }

  /// Gives `take` some bytes, at least one, on the blocking pool; it says how many were the
  /// archive's.
  aio::Task<void> hand_on(aio::BlockingPool& pool, std::function<std::size_t(ByteView)> take) {
    if (reader_.raw().empty() && !co_await fill_()) {
      throw Error(Reaction::Disconnected, "worker.truncated", "the client left inside an archive");
    }
    std::size_t taken = 0;
    auto work = [this, &take, &taken] {
      taken = take(reader_.raw());
    };
    co_await pool.run(std::move(work));
    reader_.consume_raw(taken);
  }

private:
  worker::RequestReader& reader_;
  std::function<aio::Task<bool>()> fill_;
};

/// What the client gives when it is asked (versions 1.21 and 1.22).
class PulledArchive final : public ByteSource {
public:
  PulledArchive(worker::RequestReader& reader,
                std::function<aio::Task<bool>()> fill,
                std::function<aio::Task<void>(std::uint64_t)> ask)
      : reader_(reader), fill_(std::move(fill)), ask_(std::move(ask)) {}

  aio::Task<std::size_t> take(MutableBytes buffer) override {
    std::size_t have = 0;
    while (have < buffer.size()) {
      co_await ask_(buffer.size() - have);
      std::optional<std::string> piece;
      while (!(piece = reader_.next_pulled(buffer.size() - have))) {
        if (!co_await fill_()) {
          throw Error(
              Reaction::Disconnected, "worker.truncated", "the client left inside an archive");
        }
      }
      if (piece->empty()) {
        break;
      }
      std::copy(piece->begin(), piece->end(), buffer.begin() + static_cast<std::ptrdiff_t>(have));
      have += piece->size();
    }
    co_return have;
  }

private:
  worker::RequestReader& reader_;
  std::function<aio::Task<bool>()> fill_;
  std::function<aio::Task<void>(std::uint64_t)> ask_;
};

/// Gives a NAR's bytes to an import.
class IntoImport final : public ByteSink {
public:
  IntoImport(store::Import& import, const std::string& path) : import_(import), path_(path) {}

  void write(ByteView bytes) override { feed_all(import_, bytes, path_); }

private:
  store::Import& import_;
  const std::string& path_;
};

/// The file in `spool` as the only node of an archive.
void feed_file(store::Import& import, const Spool& spool, const std::string& path) {
  IntoImport sink(import, path);
  nar::Writer writer(sink);
  writer.regular(false, spool.size());
  Bytes buffer(kTransferBuffer);
  for (std::uint64_t offset = 0; offset < spool.size();) {
    const std::size_t count = spool.read(offset, buffer);
    writer.contents(ByteView(buffer).first(count));
    offset += count;
  }
  writer.regular_end();
  writer.finish();
}

/// A file on its way in that has to be known whole, with what its address is made of.
struct SpooledFile {
  explicit SpooledFile(HashAlgorithm algorithm) : hasher(algorithm) {}

  void append(ByteView bytes) {
    hasher.update(bytes);
    spool.append(bytes);
  }

  Spool spool;
  Hasher hasher;
};

/// Takes the contents of an archive that is one regular file, as clients before Nix 2.4 send it.
/// What else it says of the file is dropped.
class OnlyFile final : public nar::EventSink {
public:
  explicit OnlyFile(SpooledFile& file) : file_(file) {}

  void regular(bool, std::uint64_t) override {}

  void contents(ByteView bytes) override { file_.append(bytes); }

  void regular_end() override {}

  void symlink(std::string_view) override { refuse(); }

  void directory() override { refuse(); }

  void entry(std::string_view) override {}

  void directory_end() override {}

private:
  [[noreturn]] static void refuse() {
    throw Error(Reaction::Reject, "worker.not-a-file", "a regular file was expected");
  }

  SpooledFile& file_;
};

std::string full_name(const model::StoreDir& dir, const model::StorePath& path) {
  return dir.print(path);
}

/// An import of something that says itself what it is called.
store::ImportRequest addressed_import(const model::StoreDir& dir,
                                      std::string_view name,
                                      const model::ContentAddress& address,
                                      const model::StorePaths& references) {
  return {.path = model::make_content_addressed_path(dir, name, address, references, false),
          .deriver = {},
          .nar_hash = {},
          .nar_size = {},
          .references = references,
          .registration_time = 0,
          .ultimate = false,
          .signatures = {},
          .content_address = model::print(address),
          .scan_for = {}};
}

/// Stores the file in `spool` under the path that its address gives. Blocking.
model::PathInfo store_file(const SessionParts& parts,
                           store::AccountId account,
                           const Spool& spool,
                           store::ImportRequest request) {
  const auto path = full_name(parts.store.dir(), request.path);
  auto import = parts.store.begin_import(account, std::move(request));
  feed_file(import, spool, path);
  const auto info = import.seal();
  const std::span<const model::PathInfo> one(&info, 1);
  parts.store.commit(account, one);
  return info;
}

} // namespace

namespace {

/// What an archive's address is made of, where that is not its SHA-256.
class OtherAddress {
public:
  explicit OtherAddress(const model::MethodAlgorithm& how)
      : how_(how), hasher_(how.algorithm), git_(how.algorithm), reader_(git_) {}

  void update(ByteView bytes) {
    if (how_.method == Method::Git) {
      reader_.feed(bytes);
    } else {
      hasher_.update(bytes);
    }
  }

  [[nodiscard]] model::ContentAddress finish() {
    return {how_.method, how_.method == Method::Git ? git_.finish() : hasher_.finish()};
  }

private:
  model::MethodAlgorithm how_;
  Hasher hasher_;
  nar::GitDigest git_;
  nar::Reader reader_;
};

} // namespace

aio::Task<model::PathInfo> WorkerState::add_archive(worker::AddToStore& request) {
  auto import = std::make_shared<store::Import>(parts_.store.begin_import(account_));
  std::optional<OtherAddress> other;
  if (request.method.method == Method::Git || request.method.algorithm != HashAlgorithm::Sha256) {
    other.emplace(request.method);
  }
  if (frames_) {
    Bytes buffer(kTransferBuffer);
    while (const std::size_t count = co_await frames_->take(buffer)) {
      auto feed = [&import, &buffer, &other, count] {
        const auto bytes = ByteView(buffer).first(count);
        feed_all(*import, bytes, "the archive");
        if (other) {
          other->update(bytes);
        }
      };
      co_await parts_.pool.run(std::move(feed));
    }
  } else {
    BareArchive archive(reader_, [this] { return fill(limits_.stalled); });
    while (!import->complete()) {
      auto take = [&import, &other](ByteView bytes) {
        const std::size_t taken = import->feed(bytes);
        if (other) {
          other->update(bytes.first(taken));
        }
        return taken;
      };
      co_await archive.hand_on(parts_.pool, std::move(take));
    }
  }
  auto end = [this, &import, &request, &other] {
    std::optional<model::ContentAddress> made;
    if (other) {
      made = other->finish();
    }
    const auto info = import->seal_as_source(request.name, request.references, made);
    lease_.add(info.path);
    const std::span<const model::PathInfo> one(&info, 1);
    parts_.store.commit(account_, one);
    return info;
  };
  co_return co_await parts_.pool.run(std::move(end));
}

aio::Task<model::PathInfo> WorkerState::add_file(worker::AddToStore& request) {
  SpooledFile file(request.method.algorithm);
  if (frames_) {
    Bytes buffer(kTransferBuffer);
    while (const std::size_t count = co_await frames_->take(buffer)) {
      auto keep = [&file, &buffer, count] {
        file.append(ByteView(buffer).first(count));
      };
      co_await parts_.pool.run(std::move(keep));
    }
  } else {
    OnlyFile contents(file);
    nar::Reader parser(contents);
    BareArchive archive(reader_, [this] { return fill(limits_.stalled); });
    while (!parser.finished()) {
      auto take = [&parser](ByteView bytes) {
        return parser.feed(bytes);
      };
      co_await archive.hand_on(parts_.pool, std::move(take));
    }
  }
  const model::ContentAddress address{request.method.method, file.hasher.finish()};
  auto wanted = addressed_import(parts_.store.dir(), request.name, address, request.references);
  lease_.add(wanted.path);
  auto end = [this, &file, &wanted] {
    return store_file(parts_, account_, file.spool, wanted);
  };
  co_return co_await parts_.pool.run(std::move(end));
}

aio::Task<void> WorkerState::perform(worker::AddToStore& request) {
  if (request.repair) {
    throw Error(Reaction::Unsupported, "worker.repair", "repairing paths is not offered");
  }
  const bool archive =
      request.method.method == Method::NixArchive || request.method.method == Method::Git;
  auto adding = archive ? add_archive(request) : add_file(request);
  const model::PathInfo info = co_await std::move(adding);
  model::StorePaths added{info.path};
  co_await admit(std::move(added));
  if (frames_) {
    conclude(worker::PathInfoReply{info});
  } else { // Clients that frame nothing (before 1.25) are told the path alone.
    conclude(worker::PathReply{info.path});
  }
}

aio::Task<void> WorkerState::perform(worker::AddTextToStore& request) {
  auto work = [this, &request] {
    Hasher hasher(HashAlgorithm::Sha256);
    hasher.update(bytes_of(request.contents));
    Spool spool;
    spool.append(bytes_of(request.contents));
    const model::ContentAddress address{Method::Text, hasher.finish()};
    auto wanted = addressed_import(parts_.store.dir(), request.name, address, request.references);
    lease_.add(wanted.path);
    return store_file(parts_, account_, spool, std::move(wanted));
  };
  const auto info = co_await parts_.pool.run(std::move(work));
  model::StorePaths added{info.path};
  co_await admit(std::move(added));
  conclude(worker::PathReply{info.path});
}

namespace {

/// Hands bytes on and digests them.
class DigestedSource final : public ByteSource {
public:
  explicit DigestedSource(ByteSource& source) : source_(source) {}

  aio::Task<std::size_t> take(MutableBytes buffer) override {
    const std::size_t count = co_await source_.take(buffer);
    hasher_.update(ByteView(buffer).first(count));
    co_return count;
  }

  [[nodiscard]] Hash finish() { return hasher_.finish(); }

private:
  ByteSource& source_;
  Hasher hasher_{HashAlgorithm::Sha256};
};

} // namespace

/// A path from a builder's client. Whoever only knows the name of a path that is there already gets
/// nothing for it: the contents have to come, and to be those.
aio::Task<void> WorkerState::receive_inside(model::PathInfo info) {
  const auto path = info.path;
  // What a builder says of it beyond its contents is nobody's knowledge.
  info.deriver.reset();
  info.signatures.clear();
  info.ultimate = false;
  DigestedSource source(*frames_);
  co_await receive_path(parts_, account_, std::move(info), source);
  const auto sent = source.finish();
  auto look = [this, &path] {
    return parts_.store.db().path_info(account_, path);
  };
  const auto stored = co_await parts_.pool.run(std::move(look));
  if (!stored || stored->nar_hash != sent) {
    fail_invalid(path);
  }
  model::StorePaths added{path};
  co_await admit(std::move(added));
}

aio::Task<void> WorkerState::perform(worker::AddToStoreNar& request) {
  lease_.add(request.info.path);
  std::function<aio::Task<bool>()> more = [this] {
    return fill(limits_.stalled);
  };
  if (caller_.inside != nullptr) {
    co_await receive_inside(request.info);
  } else if (frames_) {
    co_await receive_path(parts_, account_, request.info, *frames_);
  } else if (worker::payload_of(request, peer_) == worker::Payload::Pulled) {
    std::function<aio::Task<void>(std::uint64_t)> ask = [this](std::uint64_t most) {
      say(worker::DataWanted{most});
      return send();
    };
    PulledArchive source(reader_, std::move(more), std::move(ask));
    co_await receive_path(parts_, account_, request.info, source);
  } else {
    BareArchive archive(reader_, std::move(more));
    auto wanted = import_request(request.info);
    auto begin = [this, &wanted] {
      return parts_.store.begin_import(account_, wanted);
    };
    auto import = co_await parts_.pool.run(std::move(begin));
    co_await archive.feed(import, parts_.pool);
    auto end = [this, &import] {
      const auto info = import.seal();
      const std::span<const model::PathInfo> one(&info, 1);
      parts_.store.commit(account_, one);
    };
    co_await parts_.pool.run(std::move(end));
  }
  conclude(worker::EmptyReply{});
}

aio::Task<void> WorkerState::perform(worker::AddMultipleToStore&) {
  co_await receive_paths(parts_, account_, lease_, limits_.wire, *frames_);
  conclude(worker::EmptyReply{});
}

namespace {

constexpr std::uint64_t kMostLogBytes = 256 * kMiB;

/// The log of a build that was made elsewhere gets a record of its own, as any build has. Blocking.
void keep_log(const SessionParts& parts,
              store::AccountId account,
              const model::StorePath& derivation,
              const Spool& log) {
  store::BuildRecord record;
  record.account = account;
  record.derivation = derivation.base_name();
  record.status = model::BuildStatus::Substituted;
  record.created_us = parts.clock.wall().time_since_epoch().count();
  record.stopped_us = record.created_us;
  record.log_bytes = log.size();
  record.id = parts.store.db().add_build(record);
  Bytes buffer(kTransferBuffer);
  std::uint64_t offset = 0;
  while (const std::size_t count = log.read(offset, buffer)) {
    parts.logs.append(record.id, ByteView(buffer).first(count));
    offset += count;
  }
  parts.logs.finish(record.id);
}

} // namespace

aio::Task<void> WorkerState::perform(worker::AddBuildLog& request) {
  const auto derivation = parts_.store.dir().print(request.path);
  if (!request.path.is_derivation()) {
    throw Error(
        Reaction::Reject, "worker.build-log", fmt::format("'{}' is no derivation", derivation));
  }
  Spool log;
  Bytes buffer(kTransferBuffer);
  while (const std::size_t count = co_await frames_->take(buffer)) {
    if (log.size() + count > kMostLogBytes) {
      throw Error(Reaction::Reject,
                  "worker.build-log",
                  fmt::format("the log of '{}' has more than {} MiB, the most that is taken",
                              derivation,
                              kMostLogBytes / kMiB));
    }
    auto keep = [&log, &buffer, count] {
      log.append(ByteView(buffer).first(count));
    };
    co_await parts_.pool.run(std::move(keep));
  }
  auto work = [this, &request, &log] {
    keep_log(parts_, account_, request.path, log);
  };
  co_await parts_.pool.run(std::move(work));
  conclude(worker::NumberReply{1});
}

aio::Task<void> WorkerState::perform(worker::AddSignatures& request) {
  const bool present = co_await valid(request.path);
  if (!present) {
    fail_invalid(request.path);
  }
  auto work = [this, &request] {
    parts_.store.db().add_signatures(account_, request.path, request.signatures);
  };
  co_await parts_.pool.run(std::move(work));
  conclude(worker::NumberReply{1});
}

aio::Task<void> WorkerState::perform(worker::RegisterDrvOutput& request) {
  const auto& path = request.realisation.path;
  lease_.add(path);
  const bool present = co_await valid(path);
  if (!present) {
    fail_invalid(path);
  }
  const auto key = realisation_key(request.id);
  auto work = [this, &key, &request] {
    const store::StoredRealisation made{key, request.realisation};
    parts_.store.db().register_realisations(account_, {&made, 1});
    return parts_.store.db().realisation(account_, key);
  };
  const auto known = co_await parts_.pool.run(std::move(work));
  if (!known || known->path != path) {
    throw Error(Reaction::Reject,
                "worker.realisation",
                fmt::format("output '{}' of '{}' is known to be '{}', not '{}'",
                            key.output,
                            key.derivation,
                            known ? parts_.store.dir().print(known->path) : "nothing",
                            parts_.store.dir().print(path)));
  }
  conclude(worker::EmptyReply{});
}

} // namespace nixbuild::server
