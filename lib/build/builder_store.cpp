#include <nixbuild/base/error.hpp>
#include <nixbuild/build/builder_store.hpp>
#include <nixbuild/sandbox/admission.hpp>

#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <chrono>
#include <utility>

namespace nixbuild::build {

namespace admission = sandbox::admission;

namespace {

constexpr std::size_t kAdmittedPiece = 256 * kKiB;
/// A machine under emulation unpacks slowly; one that does nothing for so long has ended.
constexpr std::chrono::minutes kAdmissionPatience{10};

/// The NAR of a path in pieces of about kAdmittedPiece.
class ArchivePieces {
public:
  explicit ArchivePieces(store::Export source) : source_(std::move(source)) {}

  /// Empty at the end. Blocking.
  std::string next() {
    std::string piece;
    while (piece.size() < kAdmittedPiece) {
      if (range_.length > 0) {
        read_range(piece);
        continue;
      }
      auto part = source_.next();
      if (!part) {
        break;
      }
      if (const auto* literal = std::get_if<segment::LiteralPiece>(&*part)) {
        piece.append(text_of(literal->bytes));
      } else {
        range_ = std::get<segment::DataPiece>(*part);
      }
    }
    return piece;
  }

private:
  void read_range(std::string& piece) {
    const auto wanted = std::min<std::uint64_t>(range_.length, kAdmittedPiece);
    const auto at = piece.size();
    piece.resize(at + static_cast<std::size_t>(wanted));
    const auto got = system_call("store.read", "stored contents", [&] {
      return ::pread(source_.data_fd(),
                     piece.data() + at,
                     static_cast<std::size_t>(wanted),
                     static_cast<off_t>(range_.offset));
    });
    if (got == 0) {
      throw Error(Reaction::Corrupt, "store.short-data", "stored contents end early");
    }
    piece.resize(at + static_cast<std::size_t>(got));
    range_.offset += static_cast<std::uint64_t>(got);
    range_.length -= static_cast<std::uint64_t>(got);
  }

  store::Export source_;
  segment::DataPiece range_{};
};

} // namespace

BuilderStore::BuilderStore(Parts parts,
                           const model::StorePaths& inputs,
                           std::vector<model::StorePath> derivations,
                           std::unique_ptr<aio::ByteStream> machine)
    : parts_(parts), derivations_(std::move(derivations)), machine_(std::move(machine)),
      lease_(parts.store.lease(parts.account)), allowed_(inputs.begin(), inputs.end()) {}

BuilderStore::~BuilderStore() = default;

bool BuilderStore::allows(const model::StorePath& path) const {
  const std::lock_guard lock(mutex_);
  return allowed_.contains(path);
}

model::StorePaths BuilderStore::paths() const {
  const std::lock_guard lock(mutex_);
  return {allowed_.begin(), allowed_.end()};
}

model::StorePaths BuilderStore::added() const {
  const std::lock_guard lock(mutex_);
  return {added_.begin(), added_.end()};
}

aio::Task<void> BuilderStore::admit(model::StorePaths paths) {
  std::erase_if(paths, [this](const auto& path) { return allows(path); });
  if (paths.empty()) {
    co_return;
  }
  for (;;) {
    const auto seen = turn_.count();
    {
      const std::lock_guard lock(mutex_);
      if (!admitting_) {
        admitting_ = true;
        break;
      }
    }
    co_await turn_.wait(seen);
  }
  std::exception_ptr failure;
  try {
    co_await admit_in_turn(std::move(paths));
  } catch (...) {
    failure = std::current_exception();
  }
  {
    const std::lock_guard lock(mutex_);
    admitting_ = false;
  }
  turn_.notify();
  if (failure) {
    std::rethrow_exception(failure);
  }
}

aio::Task<void> BuilderStore::admit_in_turn(model::StorePaths paths) {
  if (broken_) {
    throw Error(
        Reaction::Disconnected, "build.admission", "the builder's machine takes no paths any more");
  }
  auto look = [this, &paths] {
    lease_.add(paths);
    auto closure = parts_.store.db().closure(parts_.account, paths);
    lease_.add(closure);
    std::erase_if(closure, [this](const auto& path) { return allows(path); });
    return closure;
  };
  const auto missing = co_await parts_.pool.run(std::move(look));
  for (const auto& path : missing) {
    broken_ = true;
    co_await send(path);
    const auto refusal = co_await read_answer();
    broken_ = false;
    if (!refusal.empty()) {
      throw Error(Reaction::Reject,
                  "build.admission",
                  fmt::format("the builder's machine does not take '{}': {}",
                              parts_.store.dir().print(path),
                              refusal));
    }
    const std::lock_guard lock(mutex_);
    allowed_.insert(path);
    added_.insert(path);
  }
}

aio::Task<void> BuilderStore::send(const model::StorePath& path) {
  auto open = [this, &path] {
    return std::make_shared<ArchivePieces>(parts_.store.open_export(parts_.account, path));
  };
  const auto pieces = co_await parts_.pool.run(std::move(open));
  std::string message = admission::counted(path.base_name());
  for (bool more = true; more;) {
    auto read = [&pieces] {
      return pieces->next();
    };
    const std::string piece = co_await parts_.pool.run(std::move(read));
    more = !piece.empty();
    message += admission::counted(piece);
    co_await machine_->write_all(bytes_of(message), kAdmissionPatience);
    message.clear();
  }
}

aio::Task<std::string> BuilderStore::read_answer() {
  std::string answer;
  std::size_t wanted = 4;
  bool head = true;
  Bytes buffer(admission::kMaxAnswer + 4);
  while (answer.size() < wanted) {
    const auto room = MutableBytes(buffer).first(wanted - answer.size());
    const std::size_t count = co_await machine_->read_some(room, kAdmissionPatience);
    if (count == 0) {
      throw Error(Reaction::Disconnected, "build.admission", "the builder's machine has ended");
    }
    answer.append(text_of(ByteView(buffer).first(count)));
    if (head && answer.size() == wanted) {
      wanted += admission::read_length(bytes_of(answer), admission::kMaxAnswer);
      head = false;
    }
  }
  co_return answer.substr(4);
}

} // namespace nixbuild::build
