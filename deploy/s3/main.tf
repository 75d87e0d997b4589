# A bucket on Amazon S3 that keeps every version, and two principals: one that only adds, one that only restores.
# Expiry rules come from a file that `lifeboat lifecycle print > lifecycle.json` writes.

variable "bucket" {
  type = string
}

variable "lock_days" {
  type        = number
  default     = 0
  description = "Days during which no version can be deleted by anybody; 0 for none. It cannot be taken back."
}

variable "prefix" {
  type        = string
  default     = ""
  description = "What the store's URL has after the bucket, without slashes at its ends; empty for nothing."
}

variable "list" {
  type        = bool
  default     = false
  description = "Whether the writer may list names and sizes: a new catalog then finds what is there."
}

variable "lifecycle_file" {
  type        = string
  default     = ""
  description = "The file with the rules; empty for none, and then the bucket grows without end."
}

locals {
  keys  = var.prefix == "" ? var.bucket : "${var.bucket}/${var.prefix}"
  rules = var.lifecycle_file == "" ? [] : jsondecode(file(var.lifecycle_file)).Rules
}

resource "aws_s3_bucket" "store" {
  bucket              = var.bucket
  object_lock_enabled = var.lock_days > 0
}

resource "aws_s3_bucket_versioning" "store" {
  bucket = aws_s3_bucket.store.id
  versioning_configuration {
    status = "Enabled"
  }
}

resource "aws_s3_bucket_object_lock_configuration" "store" {
  count  = var.lock_days > 0 ? 1 : 0
  bucket = aws_s3_bucket.store.id
  rule {
    default_retention {
      mode = "COMPLIANCE"
      days = var.lock_days
    }
  }
  depends_on = [aws_s3_bucket_versioning.store]
}

resource "aws_s3_bucket_lifecycle_configuration" "store" {
  count  = length(local.rules) > 0 ? 1 : 0
  bucket = aws_s3_bucket.store.id
  dynamic "rule" {
    for_each = local.rules
    content {
      id     = rule.value.ID
      status = rule.value.Status
      filter {
        prefix = rule.value.Filter.Prefix
      }
      expiration {
        days                         = try(rule.value.Expiration.Days, null)
        expired_object_delete_marker = try(rule.value.Expiration.ExpiredObjectDeleteMarker, null)
      }
      dynamic "noncurrent_version_expiration" {
        for_each = try([rule.value.NoncurrentVersionExpiration.NoncurrentDays], [])
        content {
          noncurrent_days = noncurrent_version_expiration.value
        }
      }
      dynamic "abort_incomplete_multipart_upload" {
        for_each = try([rule.value.AbortIncompleteMultipartUpload.DaysAfterInitiation], [])
        content {
          days_after_initiation = abort_incomplete_multipart_upload.value
        }
      }
    }
  }
  depends_on = [aws_s3_bucket_versioning.store]
}

resource "aws_s3_bucket_public_access_block" "store" {
  bucket                  = aws_s3_bucket.store.id
  block_public_acls       = true
  block_public_policy     = true
  ignore_public_acls      = true
  restrict_public_buckets = true
}

resource "aws_iam_user" "writer" {
  name = "${var.bucket}-writer"
}

resource "aws_iam_user" "restorer" {
  name = "${var.bucket}-restorer"
}

resource "aws_iam_user_policy" "writer" {
  name = "add"
  user = aws_iam_user.writer.name
  policy = replace(replace(replace(replace(file("${path.module}/${var.list ? "iam-put-list" : "iam-put-only"}.json"),
    "BUCKET/PREFIX", local.keys), "BUCKET", var.bucket),
  "PREFIX/*", var.prefix == "" ? "*" : "${var.prefix}/*"), "PREFIX", var.prefix)
}

resource "aws_iam_user_policy" "restorer" {
  name   = "restore"
  user   = aws_iam_user.restorer.name
  policy = replace(replace(file("${path.module}/iam-restore.json"), "BUCKET/PREFIX", local.keys), "BUCKET", var.bucket)
}

resource "aws_s3_bucket_policy" "store" {
  bucket = aws_s3_bucket.store.id
  policy = replace(replace(file("${path.module}/bucket-policy.json"), "BUCKET", var.bucket), "WRITER", aws_iam_user.writer.arn)
}

output "writer" {
  value       = aws_iam_user.writer.name
  description = "Make its access key with: aws iam create-access-key --user-name NAME. It goes to the host."
}

output "restorer" {
  value       = aws_iam_user.restorer.name
  description = "The same; its key is kept with the recovery kit."
}
