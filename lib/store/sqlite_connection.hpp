#pragma once

#include <nixbuild/base/bytes.hpp>
#include <nixbuild/store/sqlite.hpp>

#include <cstdint>
#include <filesystem>
#include <memory>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

struct sqlite3;
struct sqlite3_stmt;

namespace nixbuild::store {

/// One connection to an SQLite database with its prepared statements. Used by one thread at a time.
class Connection {
public:
  /// Opens (and makes, when `create`) the database and sets it up; does not look at the schema.
  Connection(const std::filesystem::path& path, const SqliteOptions& options, bool create);
  ~Connection();
  Connection(const Connection&) = delete;
  Connection& operator=(const Connection&) = delete;

  void execute(const char* sql);
  /// True outside a transaction: after a grave error SQLite rolls back by itself.
  [[nodiscard]] bool idle() const noexcept;
  [[nodiscard]] std::int64_t last_row() const noexcept;
  [[nodiscard]] std::int64_t changes() const noexcept;
  /// The bytes that a file of the database has.
  [[nodiscard]] std::string image() const;

  /// The statement of that text, prepared once. `sql` is a literal: its address is the key.
  [[nodiscard]] sqlite3_stmt* statement(const char* sql);
  /// Throws for the SQLite result `code`.
  [[noreturn]] void fail(int code) const;

private:
  struct CloseStatement {
    void operator()(sqlite3_stmt* statement) const noexcept;
  };

  sqlite3* db_ = nullptr;
  std::unordered_map<const char*, std::unique_ptr<sqlite3_stmt, CloseStatement>> statements_;
};

/// One use of a prepared statement; columns and parameters count from 0. What is bound outlives the
/// next step; what a column returns lives until the next step.
class Query {
public:
  Query(Connection& connection, const char* sql);
  ~Query();
  Query(const Query&) = delete;
  Query& operator=(const Query&) = delete;

  Query& bind(int index, std::int64_t value);
  Query& bind(int index, std::string_view text);
  Query& bind(int index, ByteView blob);
  Query& bind_null(int index);

  /// True: there is a row.
  bool step();
  /// Runs a statement without rows.
  void run();
  /// Ready for other parameters.
  void reset();

  [[nodiscard]] std::int64_t integer(int column) const;
  [[nodiscard]] std::string_view text(int column) const;
  [[nodiscard]] ByteView blob(int column) const;
  [[nodiscard]] bool is_null(int column) const;

private:
  void check(int code) const;

  Connection& connection_;
  sqlite3_stmt* statement_;
};

/// A read transaction: one snapshot for all questions in it.
class Snapshot {
public:
  explicit Snapshot(Connection& connection) : connection_(connection) {
    connection_.execute("begin");
  }

  ~Snapshot();
  Snapshot(const Snapshot&) = delete;
  Snapshot& operator=(const Snapshot&) = delete;

private:
  Connection& connection_;
};

/// Lists that stand in one column, separated by blanks.
[[nodiscard]] std::vector<std::string> split_words(std::string_view text);
[[nodiscard]] std::string join_words(const std::vector<std::string>& words);

/// Makes or migrates the schema. Errors: `metadata.newer`, `metadata.sqlite`.
void bring_schema_up_to_date(Connection& connection, const std::filesystem::path& path);

} // namespace nixbuild::store
