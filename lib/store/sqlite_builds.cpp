#include "sqlite_builds.hpp"

#include "metadata_rules.hpp"
#include "sqlite_paths.hpp"

#include <nixbuild/base/encoding.hpp>

#include <algorithm>
#include <limits>
#include <sstream>
#include <string>
#include <utility>

namespace nixbuild::store {

namespace {

#define NIXBUILD_BUILD_COLUMNS                                                                     \
  "Builds.id, account, derivation, platform, status, error, created_us, started_us, stopped_us, "  \
  "cpus, memory_bytes, peak_memory_bytes, cpu_us, log_bytes, accelerator, phases, "                \
  "Builds.attempt, build_key, reused, of_another, ssh_key, tags, disk_bytes, output_bytes, "       \
  "outputs, session, sent_from_us, sent_to_us"

constexpr const char* kSelectBuilds =
    "select " NIXBUILD_BUILD_COLUMNS " from Builds where account = ? order by id desc limit ?";
constexpr const char* kSelectBuild =
    "select " NIXBUILD_BUILD_COLUMNS " from Builds where account = ? and id = ?";
constexpr const char* kSelectOpen =
    "select " NIXBUILD_BUILD_COLUMNS ", plan, log_base, request from Builds "
    "join OpenBuilds on OpenBuilds.build = Builds.id "
    "order by Builds.id";
constexpr int kBuildColumns = 28;

#undef NIXBUILD_BUILD_COLUMNS

constexpr std::int64_t to_sql(std::uint64_t value) {
  return static_cast<std::int64_t>(value);
}

std::set<std::string> tags_of(std::string_view text) {
  std::set<std::string> tags;
  while (!text.empty()) {
    const auto end = std::min(text.find('\n'), text.size());
    tags.emplace(text.substr(0, end));
    text.remove_prefix(std::min(end + 1, text.size()));
  }
  return tags;
}

std::string text_of_tags(const std::set<std::string>& tags) {
  std::string text;
  for (const auto& tag : tags) {
    text += text.empty() ? "" : "\n";
    text += tag;
  }
  return text;
}

/// A line for each: name, base name of the path, NAR hash in hexadecimal digits, NAR size.
std::string text_of_outputs(const std::vector<BuildOutput>& outputs) {
  std::string text;
  for (const auto& output : outputs) {
    text += output.name + " " + output.path.base_name() + " " +
            hex_encode(output.nar_hash.bytes()) + " " + std::to_string(output.nar_size) + "\n";
  }
  return text;
}

std::vector<BuildOutput> outputs_of(const std::string& text) {
  std::vector<BuildOutput> outputs;
  std::istringstream words(text);
  std::string name;
  std::string path;
  std::string digest;
  for (std::uint64_t size = 0; words >> name >> path >> digest >> size;) {
    Hash hash(HashAlgorithm::Sha256, hex_decode(digest));
    outputs.push_back({name, model::StorePath::parse(path), hash, size});
  }
  return outputs;
}

/// Begin and end of each, in the order of the members. `send` has columns of its own.
std::string text_of_session(const SessionSpans& session) {
  std::string text;
  for (const auto& span : {session.connect, session.query, session.upload}) {
    text += std::to_string(span.begin_us) + " " + std::to_string(span.end_us) + " ";
  }
  return session == SessionSpans() ? std::string() : text;
}

SessionSpans session_of(const std::string& text) {
  SessionSpans session;
  std::istringstream words(text);
  for (auto* span : {&session.connect, &session.query, &session.upload}) {
    words >> span->begin_us >> span->end_us;
  }
  return session;
}

/// The texts of a record's lists; they live until the query that is bound to them has run.
struct ListTexts {
  std::string tags;
  std::string outputs;

  explicit ListTexts(const BuildRecord& record)
      : tags(text_of_tags(record.tags)), outputs(text_of_outputs(record.outputs)) {}
};

BuildRecord build_of_row(const Query& query) {
  BuildRecord record;
  record.id = query.integer(0);
  record.account = AccountId{query.integer(1)};
  record.derivation = query.text(2);
  record.platform = query.text(3);
  if (!query.is_null(4)) {
    record.status = static_cast<model::BuildStatus>(query.integer(4));
  }
  record.error = query.text(5);
  record.created_us = query.integer(6);
  record.started_us = query.integer(7);
  record.stopped_us = query.integer(8);
  record.cpus = static_cast<unsigned>(query.integer(9));
  record.memory_bytes = static_cast<std::uint64_t>(query.integer(10));
  record.peak_memory_bytes = static_cast<std::uint64_t>(query.integer(11));
  record.cpu_us = static_cast<std::uint64_t>(query.integer(12));
  record.log_bytes = static_cast<std::uint64_t>(query.integer(13));
  record.accelerator = query.text(14);
  record.phases = query.text(15);
  record.attempt = static_cast<unsigned>(query.integer(16));
  if (!query.is_null(17)) {
    record.key.emplace(HashAlgorithm::Sha256, query.blob(17));
  }
  record.reused = query.integer(18);
  record.of_another = query.integer(19) != 0;
  record.ssh_key = query.text(20);
  record.tags = tags_of(query.text(21));
  record.disk_bytes = static_cast<std::uint64_t>(query.integer(22));
  record.output_bytes = static_cast<std::uint64_t>(query.integer(23));
  record.outputs = outputs_of(std::string(query.text(24)));
  record.session = session_of(std::string(query.text(25)));
  record.session.send = {query.integer(26), query.integer(27)};
  return record;
}

/// Binds all columns but the number; returns how many.
int bind_build(Query& query, const BuildRecord& record, const ListTexts& lists) {
  query.bind(0, std::string_view(record.derivation)).bind(1, std::string_view(record.platform));
  if (record.status) {
    query.bind(2, static_cast<std::int64_t>(*record.status));
  } else {
    query.bind_null(2);
  }
  query.bind(3, std::string_view(record.error));
  query.bind(4, record.created_us).bind(5, record.started_us).bind(6, record.stopped_us);
  query.bind(7, std::int64_t{record.cpus}).bind(8, to_sql(record.memory_bytes));
  query.bind(9, to_sql(record.peak_memory_bytes)).bind(10, to_sql(record.cpu_us));
  query.bind(11, to_sql(record.log_bytes)).bind(12, std::string_view(record.accelerator));
  query.bind(13, std::string_view(record.phases)).bind(14, std::int64_t{record.attempt});
  if (record.key) {
    query.bind(15, record.key->bytes());
  } else {
    query.bind_null(15);
  }
  query.bind(16, record.reused).bind(17, std::int64_t{record.of_another});
  query.bind(18, std::string_view(record.ssh_key));
  query.bind(19, std::string_view(lists.tags)).bind(20, to_sql(record.disk_bytes));
  query.bind(21, to_sql(record.output_bytes)).bind(22, std::string_view(lists.outputs));
  query.bind(23, record.account.value);
  return 24;
}

/// The attempt that an open build has come to.
std::optional<std::int64_t> open_attempt(Connection& connection, std::int64_t build) {
  Query query(connection, "select attempt from OpenBuilds where build = ?");
  query.bind(0, build);
  return query.step() ? std::optional(query.integer(0)) : std::nullopt;
}

std::string names_of(const model::StorePaths& paths) {
  std::string text;
  for (const auto& path : paths) {
    text += text.empty() ? "" : " ";
    text += path.base_name();
  }
  return text;
}

model::StorePaths paths_of(std::string_view text) {
  model::StorePaths paths;
  while (!text.empty()) {
    const auto end = std::min(text.find(' '), text.size());
    paths.push_back(model::StorePath::parse(text.substr(0, end)));
    text.remove_prefix(std::min(end + 1, text.size()));
  }
  model::sort_unique(paths);
  return paths;
}

void delete_outcome(Connection& connection, std::int64_t account, ByteView key) {
  Query(connection,
        "delete from OutcomeOutputs where outcome in "
        "(select id from Outcomes where build_key = ? and account = ?)")
      .bind(0, key)
      .bind(1, account)
      .run();
  Query(connection, "delete from Outcomes where build_key = ? and account = ?")
      .bind(0, key)
      .bind(1, account)
      .run();
}

void replace_outcome(Connection& connection, const BuildOutcome& outcome) {
  const auto key = outcome.key.bytes();
  delete_outcome(connection, outcome.account.value, key);
  Query row(connection,
            "insert into Outcomes (account, build_key, build, status, error, shared, "
            "timeout_seconds, silence_seconds) values (?,?,?,?,?,?,?,?)");
  row.bind(0, outcome.account.value).bind(1, key).bind(2, outcome.build);
  row.bind(3, static_cast<std::int64_t>(outcome.status)).bind(4, std::string_view(outcome.error));
  row.bind(5, std::int64_t{outcome.shared}).bind(6, outcome.timeout_seconds);
  row.bind(7, outcome.silence_seconds).run();
  const auto id = connection.last_row();
  for (const auto& output : outcome.outputs) {
    const auto path = output.path.base_name();
    const auto references = names_of(output.references);
    Query query(connection, "insert into OutcomeOutputs values (?,?,?,?,?,?)");
    query.bind(0, id).bind(1, std::string_view(path)).bind(2, output.nar_hash.bytes());
    query.bind(3, to_sql(output.nar_size)).bind(4, std::string_view(references));
    query.bind(5, std::string_view(output.content_address)).run();
  }
}

} // namespace

std::int64_t insert_build(Connection& connection, const BuildRecord& record) {
  Query query(connection,
              "insert into Builds (derivation, platform, status, error, created_us, started_us, "
              "stopped_us, cpus, memory_bytes, peak_memory_bytes, cpu_us, log_bytes, accelerator, "
              "phases, attempt, build_key, reused, of_another, ssh_key, tags, disk_bytes, "
              "output_bytes, outputs, account, session) "
              "values (?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?)");
  const ListTexts lists(record);
  const auto session = text_of_session(record.session);
  const int next = bind_build(query, record, lists);
  query.bind(next, std::string_view(session)).run();
  return connection.last_row();
}

void update_build_row(Connection& connection, const BuildRecord& record) {
  Query query(connection,
              "update Builds set derivation = ?, platform = ?, status = ?, error = ?, "
              "created_us = ?, started_us = ?, stopped_us = ?, cpus = ?, memory_bytes = ?, "
              "peak_memory_bytes = ?, cpu_us = ?, log_bytes = ?, accelerator = ?, phases = ?, "
              "attempt = ?, build_key = ?, reused = ?, of_another = ?, ssh_key = ?, tags = ?, "
              "disk_bytes = ?, output_bytes = ?, outputs = ? "
              "where account = ? and id = ?");
  const ListTexts lists(record);
  const int next = bind_build(query, record, lists);
  query.bind(next, record.id).run();
  if (connection.changes() == 0) {
    throw_unknown_build(record.id);
  }
}

void update_sent(Connection& connection, AccountId account, std::int64_t id, TimeSpan sent) {
  Query(connection,
        "update Builds set sent_from_us = ?, sent_to_us = ? where account = ? and id = ?")
      .bind(0, sent.begin_us)
      .bind(1, sent.end_us)
      .bind(2, account.value)
      .bind(3, id)
      .run();
}

std::optional<BuildRecord>
select_build(Connection& connection, AccountId account, std::int64_t id) {
  Query query(connection, kSelectBuild);
  query.bind(0, account.value).bind(1, id);
  return query.step() ? std::optional(build_of_row(query)) : std::nullopt;
}

std::vector<BuildRecord>
select_builds(Connection& connection, AccountId account, std::size_t limit) {
  constexpr std::size_t kMost = std::numeric_limits<std::int64_t>::max();
  std::vector<BuildRecord> result;
  Query query(connection, kSelectBuilds);
  query.bind(0, account.value).bind(1, static_cast<std::int64_t>(std::min(limit, kMost)));
  while (query.step()) {
    result.push_back(build_of_row(query));
  }
  return result;
}

std::uint64_t select_cpu_time(Connection& connection, AccountId account, std::int64_t since_us) {
  Query query(connection,
              "select coalesce(sum((stopped_us - started_us) * cpus), 0) from Builds "
              "where account = ? and stopped_us >= ? and started_us > 0 and reused = 0 "
              "and stopped_us > started_us");
  query.bind(0, account.value).bind(1, since_us);
  query.step();
  return static_cast<std::uint64_t>(query.integer(0));
}

std::int64_t
insert_open_build(Connection& connection, const BuildRecord& record, std::string_view request) {
  const auto id = insert_build(connection, record);
  Query(connection, "insert into OpenBuilds values (?, ?, '', 0, ?)")
      .bind(0, id)
      .bind(1, std::int64_t{record.attempt})
      .bind(2, bytes_of(request))
      .run();
  return id;
}

bool update_open_build(Connection& connection,
                       const BuildRecord& record,
                       std::string_view plan,
                       std::uint64_t log_base) {
  const auto attempt = open_attempt(connection, record.id);
  if (!attempt || *attempt + 1 != std::int64_t{record.attempt}) {
    return false;
  }
  update_build_row(connection, record);
  Query(connection, "update OpenBuilds set attempt = ?, plan = ?, log_base = ? where build = ?")
      .bind(0, std::int64_t{record.attempt})
      .bind(1, plan)
      .bind(2, to_sql(log_base))
      .bind(3, record.id)
      .run();
  return true;
}

bool close_build(Connection& connection,
                 const BuildRecord& record,
                 std::span<const model::PathInfo> outputs,
                 const BuildOutcome* outcome) {
  if (open_attempt(connection, record.id) != std::int64_t{record.attempt}) {
    return false;
  }
  if (!outputs.empty()) {
    insert_paths(connection, record.account, outputs);
  }
  update_build_row(connection, record);
  if (outcome != nullptr) {
    replace_outcome(connection, *outcome);
  }
  Query(connection, "delete from OpenBuilds where build = ?").bind(0, record.id).run();
  return true;
}

std::vector<OpenBuild> select_open_builds(Connection& connection) {
  std::vector<OpenBuild> result;
  Query query(connection, kSelectOpen);
  while (query.step()) {
    OpenBuild open;
    open.record = build_of_row(query);
    open.plan = query.text(kBuildColumns);
    open.log_base = static_cast<std::uint64_t>(query.integer(kBuildColumns + 1));
    open.request = text_of(query.blob(kBuildColumns + 2));
    result.push_back(std::move(open));
  }
  return result;
}

std::optional<BuildOutcome>
select_outcome(Connection& connection, AccountId account, const Hash& key, bool of_others) {
  std::optional<BuildOutcome> found;
  std::int64_t id = 0;
  {
    Query query(connection,
                "select id, account, build, status, error, shared, timeout_seconds, "
                "silence_seconds from Outcomes where build_key = ?1 and (account = ?2 or "
                "(?3 and shared and status = 0)) order by account = ?2 desc, id desc limit 1");
    query.bind(0, key.bytes()).bind(1, account.value).bind(2, std::int64_t{of_others});
    if (!query.step()) {
      return found;
    }
    id = query.integer(0);
    found.emplace();
    found->key = key;
    found->account = AccountId{query.integer(1)};
    found->build = query.integer(2);
    found->status = static_cast<model::BuildStatus>(query.integer(3));
    found->error = query.text(4);
    found->shared = query.integer(5) != 0;
    found->timeout_seconds = query.integer(6);
    found->silence_seconds = query.integer(7);
  }
  Query query(connection,
              "select path, nar_hash, nar_size, refs, content_address from OutcomeOutputs "
              "where outcome = ? order by path");
  query.bind(0, id);
  while (query.step()) {
    model::PathInfo info{.path = model::StorePath::parse(query.text(0)),
                         .deriver = {},
                         .nar_hash = Hash(HashAlgorithm::Sha256, query.blob(1)),
                         .nar_size = static_cast<std::uint64_t>(query.integer(2)),
                         .references = paths_of(query.text(3)),
                         .registration_time = 0,
                         .ultimate = true,
                         .signatures = {},
                         .content_address = std::string(query.text(4))};
    found->outputs.push_back(std::move(info));
  }
  return found;
}

std::size_t
delete_builds_before(Connection& connection, std::int64_t before_us, std::size_t limit) {
  std::vector<std::int64_t> old;
  {
    Query query(connection,
                "select id from Builds where stopped_us < ? and status is not null "
                "and id not in (select build from OpenBuilds) order by stopped_us limit ?");
    query.bind(0, before_us).bind(1, static_cast<std::int64_t>(limit));
    while (query.step()) {
      old.push_back(query.integer(0));
    }
  }
  for (const auto id : old) {
    Query(connection,
          "delete from OutcomeOutputs where outcome in (select id from Outcomes where build = ?)")
        .bind(0, id)
        .run();
    Query(connection, "delete from Outcomes where build = ?").bind(0, id).run();
    Query(connection, "delete from Builds where id = ?").bind(0, id).run();
  }
  return old.size();
}

void delete_builds_of(Connection& connection, AccountId account) {
  Query(connection,
        "delete from OutcomeOutputs where outcome in (select id from Outcomes where account = ?)")
      .bind(0, account.value)
      .run();
  Query(connection, "delete from Outcomes where account = ?").bind(0, account.value).run();
  Query(connection,
        "delete from OpenBuilds where build in (select id from Builds where account = ?)")
      .bind(0, account.value)
      .run();
  Query(connection, "delete from Builds where account = ?").bind(0, account.value).run();
}

} // namespace nixbuild::store
