# A bucket on Google Cloud Storage, and two service accounts: one that only adds, one that only restores.
# The expiry rules are what `lifeboat lifecycle print` says; they are not made here.

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

resource "google_storage_bucket" "store" {
  project                     = var.project
  name                        = var.bucket
  location                    = var.location
  uniform_bucket_level_access = true
  public_access_prevention    = "enforced"
  lifecycle {
    ignore_changes = [lifecycle_rule]
  }
}

resource "google_project_iam_custom_role" "writer" {
  project     = var.project
  role_id     = "lifeboatWriter"
  title       = "lifeboat writer"
  permissions = ["storage.objects.create"]
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
