#include "sqlite_writer.hpp"

#include <utility>

namespace nixbuild::store {

Writer::Writer(std::unique_ptr<Connection> connection) : connection_(std::move(connection)) {}

void Writer::write(const std::function<void(Connection&)>& work) {
  Job job;
  job.work = &work;
  std::unique_lock lock(mutex_);
  queue_.push_back(&job);
  changed_.wait(lock, [&] { return job.done || !writing_; });
  if (!job.done) {
    writing_ = true;
    const auto group = std::exchange(queue_, {});
    lock.unlock();
    commit_group(group);
    lock.lock();
    for (auto* member : group) {
      member->done = true;
    }
    writing_ = false;
    changed_.notify_all();
  }
  if (job.error) {
    std::rethrow_exception(job.error);
  }
}

void Writer::run_part(Job& job) {
  connection_->execute("savepoint part");
  try {
    (*job.work)(*connection_);
    connection_->execute("release part");
  } catch (...) {
    job.error = std::current_exception();
    if (connection_->idle()) {
      throw; // SQLite has rolled the whole group back (disk full, I/O error).
    }
    connection_->execute("rollback to part");
    connection_->execute("release part");
  }
}

void Writer::commit_group(const std::deque<Job*>& group) {
  try {
    connection_->execute("begin immediate");
    for (auto* job : group) {
      run_part(*job);
    }
    connection_->execute("commit");
  } catch (...) {
    // Nothing of the group was committed: whoever has no error of its own gets this one.
    for (auto* job : group) {
      if (!job->error) {
        job->error = std::current_exception();
      }
    }
    try {
      if (!connection_->idle()) {
        connection_->execute("rollback");
      }
    } catch (...) {
      // The next "begin" fails and reports it.
    }
  }
}

} // namespace nixbuild::store
