# A bucket on Google Cloud Storage, and two service accounts: one that only adds, one that only restores.
# Expiry rules come from a file that `lifeboat lifecycle print > lifecycle.json` writes. What is deleted stays for a week; with
# a retention period nothing can be deleted before it is over, by nobody, and rules wait for it.

variable "project" {
  type = string
}

variable "bucket" {
  type = string
}

variable "location" {
  type    = string
  default = "EU"
}

variable "list" {
  type        = bool
  default     = false
  description = "Whether the writer may list names and sizes: a new catalog then finds what is there."
}

variable "lock_days" {
  type        = number
  default     = 0
  description = "Days during which no object can be deleted or replaced by anybody; 0 for none."
}

variable "lifecycle_file" {
  type        = string
  default     = ""
  description = "The file with the rules; empty for none, and then the bucket grows without end."
}

locals {
  rules = var.lifecycle_file == "" ? [] : jsondecode(file(var.lifecycle_file)).rule
}

resource "google_storage_bucket" "store" {
  project                     = var.project
  name                        = var.bucket
  location                    = var.location
  uniform_bucket_level_access = true
  public_access_prevention    = "enforced"
  # Google allows versions or a retention period, not both.
  dynamic "versioning" {
    for_each = var.lock_days == 0 ? [true] : []
    content {
      enabled = true
    }
  }
  dynamic "retention_policy" {
    for_each = var.lock_days > 0 ? [var.lock_days * 86400] : []
    content {
      retention_period = retention_policy.value
    }
  }
  dynamic "lifecycle_rule" {
    for_each = local.rules
    content {
      action {
        type = lifecycle_rule.value.action.type
      }
      condition {
        age                        = try(lifecycle_rule.value.condition.age, null)
        days_since_noncurrent_time = try(lifecycle_rule.value.condition.daysSinceNoncurrentTime, null)
        with_state                 = try(lifecycle_rule.value.condition.isLive, false) ? "LIVE" : "ANY"
        matches_prefix             = lifecycle_rule.value.condition.matchesPrefix
      }
    }
  }
}

resource "google_project_iam_custom_role" "writer" {
  project     = var.project
  role_id     = "lifeboatWriter"
  title       = "lifeboat writer"
  permissions = var.list ? ["storage.objects.create", "storage.objects.list"] : ["storage.objects.create"]
}

resource "google_service_account" "writer" {
  project    = var.project
  account_id = "lifeboat-writer"
}

resource "google_service_account" "restorer" {
  project    = var.project
  account_id = "lifeboat-restorer"
}

resource "google_storage_bucket_iam_member" "writer" {
  bucket = google_storage_bucket.store.name
  role   = google_project_iam_custom_role.writer.name
  member = "serviceAccount:${google_service_account.writer.email}"
}

resource "google_storage_bucket_iam_member" "restorer" {
  bucket = google_storage_bucket.store.name
  role   = "roles/storage.objectViewer"
  member = "serviceAccount:${google_service_account.restorer.email}"
}
