#include "path_batch.hpp"
#include "spool.hpp"
#include "worker_state.hpp"

#include <nixbuild/base/error.hpp>
#include <nixbuild/model/content_address.hpp>
#include <nixbuild/nar/writer.hpp>
#include <nixbuild/protocol/path_info_stream.hpp>

#include <fmt/format.h>

#include <algorithm>
#include <utility>

namespace nixbuild::server {

namespace worker = protocol::worker;

namespace {

using Method = model::ContentAddressMethod;

/// An archive without a frame: the parser of the import finds its end.
class BareArchive {
public:
  BareArchive(worker::RequestReader& reader, std::function<aio::Task<bool>()> fill)
      : reader_(reader), fill_(std::move(fill)) {}

  /// Feeds `import` until the archive is complete.
  aio::Task<void> feed(store::Import& import, aio::BlockingPool& pool) {
    while (!import.complete()) {
      if (reader_.raw().empty() && !co_await fill_()) {
        throw Error(
            Reaction::Disconnected, "worker.truncated", "the client left inside an archive");
      }
      std::size_t taken = 0;
      auto work = [this, &import, &taken] {
        taken = import.feed(reader_.raw());
      };
      co_await pool.run(std::move(work));
      reader_.consume_raw(taken);
    }
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

aio::Task<model::PathInfo> WorkerState::add_archive(worker::AddToStore& request,
                                                    ByteSource& source) {
  auto import = std::make_shared<store::Import>(parts_.store.begin_import(account_));
  Bytes buffer(kTransferBuffer);
  while (const std::size_t count = co_await source.take(buffer)) {
    auto feed = [&import, &buffer, count] {
      feed_all(*import, ByteView(buffer).first(count), "the archive");
    };
    co_await parts_.pool.run(std::move(feed));
  }
  auto end = [this, &import, &request] {
    const auto info = import->seal_as_source(request.name, request.references);
    lease_.add(info.path);
    const std::span<const model::PathInfo> one(&info, 1);
    parts_.store.commit(account_, one);
    return info;
  };
  co_return co_await parts_.pool.run(std::move(end));
}

aio::Task<model::PathInfo> WorkerState::add_file(worker::AddToStore& request, ByteSource& source) {
  Spool spool;
  Hasher hasher(request.method.algorithm);
  Bytes buffer(kTransferBuffer);
  while (const std::size_t count = co_await source.take(buffer)) {
    auto keep = [&spool, &hasher, &buffer, count] {
      const auto bytes = ByteView(buffer).first(count);
      hasher.update(bytes);
      spool.append(bytes);
    };
    co_await parts_.pool.run(std::move(keep));
  }
  const model::ContentAddress address{request.method.method, hasher.finish()};
  auto wanted = addressed_import(parts_.store.dir(), request.name, address, request.references);
  lease_.add(wanted.path);
  auto end = [this, &spool, &wanted] {
    return store_file(parts_, account_, spool, wanted);
  };
  co_return co_await parts_.pool.run(std::move(end));
}

aio::Task<void> WorkerState::perform(worker::AddToStore& request) {
  const bool archive = request.method.method == Method::NixArchive;
  const bool plain = request.method.algorithm == HashAlgorithm::Sha256;
  if (request.method.method == Method::Git || (archive && !plain)) {
    throw Error(Reaction::Unsupported,
                "worker.method",
                fmt::format("adding paths by the method '{}' is not offered",
                            model::print(request.method)));
  }
  if (request.repair) {
    throw Error(Reaction::Unsupported, "worker.repair", "repairing paths is not offered");
  }
  if (!frames_) {
    throw Error(Reaction::Unsupported,
                "worker.old-client",
                "clients older than Nix 2.4 cannot add files to this store; copy paths instead");
  }
  auto adding = archive ? add_archive(request, *frames_) : add_file(request, *frames_);
  const model::PathInfo info = co_await std::move(adding);
  conclude(worker::PathInfoReply{info});
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
  conclude(worker::PathReply{info.path});
}

aio::Task<void> WorkerState::perform(worker::AddToStoreNar& request) {
  lease_.add(request.info.path);
  std::function<aio::Task<bool>()> more = [this] {
    return fill(limits_.stalled);
  };
  if (frames_) {
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

aio::Task<void> WorkerState::perform(worker::AddBuildLog& request) {
  throw Error(Reaction::Unsupported,
              "worker.build-log",
              fmt::format("the log of '{}' is not taken: only builds made here have logs",
                          parts_.store.dir().print(request.path)));
  co_return;
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

aio::Task<void> WorkerState::perform(worker::RegisterDrvOutput&) {
  throw Error(Reaction::Unsupported,
              "worker.realisations",
              "content-addressed derivations are not offered by this server");
  co_return;
}

} // namespace nixbuild::server
