#include "sqlite_connection.hpp"

#include <nixbuild/base/error.hpp>

#include <fmt/format.h>
#include <fmt/ranges.h>
#include <sqlite3.h>

#include <algorithm>
#include <string>

namespace nixbuild::store {

namespace {

constexpr int kBusyMilliseconds = 30'000;

[[noreturn]] void throw_sqlite(int code, std::string_view message) {
  switch (code & 0xff) {
  case SQLITE_FULL:
    throw Error(Reaction::Busy, "store.disk-full", fmt::format("database: {}", message));
  case SQLITE_CORRUPT:
  case SQLITE_NOTADB:
    throw Error(Reaction::Corrupt, "metadata.corrupt", fmt::format("database: {}", message));
  case SQLITE_BUSY:
    throw Error(Reaction::Busy, "metadata.sqlite", fmt::format("database: {}", message));
  default:
    throw Error(Reaction::Internal, "metadata.sqlite", fmt::format("database: {}", message));
  }
}

} // namespace

Connection::Connection(const std::filesystem::path& path,
                       const SqliteOptions& options,
                       bool create) {
  const int flags = SQLITE_OPEN_READWRITE | SQLITE_OPEN_NOMUTEX | SQLITE_OPEN_EXRESCODE |
                    (create ? SQLITE_OPEN_CREATE : 0);
  const int code = sqlite3_open_v2(path.c_str(), &db_, flags, nullptr);
  if (code != SQLITE_OK) {
    const std::string message =
        fmt::format("{}: {}", path.string(), db_ != nullptr ? sqlite3_errmsg(db_) : "no memory");
    sqlite3_close_v2(db_);
    throw_sqlite(code, message);
  }
  try {
    sqlite3_busy_timeout(db_, kBusyMilliseconds);
    execute("pragma journal_mode = wal");
    execute(options.durable ? "pragma synchronous = full" : "pragma synchronous = normal");
    execute("pragma temp_store = memory");
    execute("pragma journal_size_limit = 67108864");
    // Checkpoints wait for the disk: one for every 32 MiB of changes instead of every 4.
    execute("pragma wal_autocheckpoint = 8192");
    execute(fmt::format("pragma cache_size = -{}", options.cache_kib).c_str());
  } catch (...) {
    sqlite3_close_v2(db_);
    throw;
  }
}

Connection::~Connection() {
  statements_.clear();
  sqlite3_close_v2(db_);
}

void Connection::CloseStatement::operator()(sqlite3_stmt* statement) const noexcept {
  sqlite3_finalize(statement);
}

void Connection::fail(int code) const {
  throw_sqlite(code, sqlite3_errmsg(db_));
}

void Connection::execute(const char* sql) {
  const int code = sqlite3_exec(db_, sql, nullptr, nullptr, nullptr);
  if (code != SQLITE_OK) {
    fail(code);
  }
}

bool Connection::idle() const noexcept {
  return sqlite3_get_autocommit(db_) != 0;
}

std::int64_t Connection::last_row() const noexcept {
  return sqlite3_last_insert_rowid(db_);
}

std::int64_t Connection::changes() const noexcept {
  return sqlite3_changes64(db_);
}

std::string Connection::image() const {
  sqlite3_int64 size = 0;
  const std::unique_ptr<unsigned char, decltype(&sqlite3_free)> bytes(
      sqlite3_serialize(db_, "main", &size, 0), &sqlite3_free);
  if (!bytes) {
    fail(SQLITE_NOMEM);
  }
  return std::string(reinterpret_cast<const char*>(bytes.get()), static_cast<std::size_t>(size));
}

sqlite3_stmt* Connection::statement(const char* sql) {
  auto& cached = statements_[sql];
  if (!cached) {
    sqlite3_stmt* made = nullptr;
    const int code = sqlite3_prepare_v3(db_, sql, -1, SQLITE_PREPARE_PERSISTENT, &made, nullptr);
    if (code != SQLITE_OK) {
      fail(code);
    }
    cached.reset(made);
  }
  return cached.get();
}

Query::Query(Connection& connection, const char* sql)
    : connection_(connection), statement_(connection.statement(sql)) {}

Query::~Query() {
  sqlite3_reset(statement_);
}

void Query::check(int code) const {
  if (code != SQLITE_OK) {
    connection_.fail(code);
  }
}

Query& Query::bind(int index, std::int64_t value) {
  check(sqlite3_bind_int64(statement_, index + 1, value));
  return *this;
}

Query& Query::bind(int index, std::string_view text) {
  check(sqlite3_bind_text64(
      statement_, index + 1, text.data(), text.size(), SQLITE_STATIC, SQLITE_UTF8));
  return *this;
}

Query& Query::bind(int index, ByteView blob) {
  check(sqlite3_bind_blob64(statement_, index + 1, blob.data(), blob.size(), SQLITE_STATIC));
  return *this;
}

Query& Query::bind_null(int index) {
  check(sqlite3_bind_null(statement_, index + 1));
  return *this;
}

bool Query::step() {
  const int code = sqlite3_step(statement_);
  if (code == SQLITE_ROW) {
    return true;
  }
  if (code != SQLITE_DONE) {
    connection_.fail(code);
  }
  return false;
}

void Query::run() {
  while (step()) {
  }
  reset();
}

void Query::reset() {
  sqlite3_reset(statement_);
}

std::int64_t Query::integer(int column) const {
  return sqlite3_column_int64(statement_, column);
}

std::string_view Query::text(int column) const {
  const auto* bytes = sqlite3_column_text(statement_, column);
  const auto size = static_cast<std::size_t>(sqlite3_column_bytes(statement_, column));
  return bytes == nullptr ? std::string_view()
                          : std::string_view(reinterpret_cast<const char*>(bytes), size);
}

ByteView Query::blob(int column) const {
  const auto* bytes = static_cast<const std::uint8_t*>(sqlite3_column_blob(statement_, column));
  const auto size = static_cast<std::size_t>(sqlite3_column_bytes(statement_, column));
  return {bytes, bytes == nullptr ? 0 : size};
}

bool Query::is_null(int column) const {
  return sqlite3_column_type(statement_, column) == SQLITE_NULL;
}

Snapshot::~Snapshot() {
  try {
    connection_.execute("rollback");
  } catch (const Error&) {
    // Nothing was written; the connection ends its transaction with the next begin or its close.
  }
}

std::vector<std::string> split_words(std::string_view text) {
  std::vector<std::string> words;
  while (!text.empty()) {
    const auto end = std::min(text.find(' '), text.size());
    if (end > 0) {
      words.emplace_back(text.substr(0, end));
    }
    text.remove_prefix(std::min(end + 1, text.size()));
  }
  return words;
}

std::string join_words(const std::vector<std::string>& words) {
  return fmt::format("{}", fmt::join(words, " "));
}

} // namespace nixbuild::store
