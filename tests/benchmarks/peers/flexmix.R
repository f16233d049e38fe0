# Fit table.csv by flexmix, start after start; the likeliest so far is kept in flexmix.csv.
# Rscript flexmix.R <folder> <k> <starts> <seed>
suppressPackageStartupMessages(library(flexmix))
arguments <- commandArgs(trailingOnly = TRUE)
folder <- arguments[1]
k <- as.integer(arguments[2])
starts <- as.integer(arguments[3])
set.seed(as.integer(arguments[4]))
table <- read.csv(file.path(folder, "table.csv"))
features <- setdiff(names(table), c("task", "y"))
wanted <- as.formula(paste("y ~", paste(features, collapse = " + "), "| task"))
resident <- function(which) {
  line <- grep(which, readLines("/proc/self/status"), value = TRUE)
  as.numeric(gsub("[^0-9]", "", line)) / 1024
}
before <- resident("VmRSS")
used <- function() sum(proc.time()[c("user.self", "sys.self")])
began <- used()
best <- -Inf
for (start in seq_len(starts)) {
  fit <- tryCatch(
    flexmix(wanted, data = table, k = k, control = list(minprior = 0, iter.max = 500)),
    error = function(problem) NULL
  )
  seconds <- used() - began
  value <- if (is.null(fit)) NA else as.numeric(logLik(fit))
  cat(start, seconds, value, "\n", file = file.path(folder, "starts.txt"), append = start > 1)
  if (!is.na(value) && value > best) {
    best <- value
    components <- t(parameters(fit)) # a row for each: coefficients, then sigma
    weights <- prior(fit)
    write.table(
      cbind(components, weights), file.path(folder, "writing.csv"),
      sep = ",", row.names = FALSE, col.names = FALSE
    )
    file.rename(file.path(folder, "writing.csv"), file.path(folder, "flexmix.csv"))
  }
  cat(resident("VmHWM") - before, file = file.path(folder, "growth.txt"))
}
