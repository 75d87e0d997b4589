# A bucket on Amazon S3 that keeps every version, and two principals: one that only adds, one that only restores.
# The expiry rules are what `lifeboat lifecycle print` says; they are not made here.

variable "bucket" {
  type = string
}

variable "lock_days" {
  type        = number
  default     = 0
  description = "Days during which no version can be deleted by anybody; 0 for none. It cannot be taken back."
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
  user   = aws_iam_user.writer.name
  policy = replace(file("${path.module}/iam-put-only.json"), "BUCKET/PREFIX", var.bucket)
}

resource "aws_iam_user_policy" "restorer" {
  user   = aws_iam_user.restorer.name
  policy = replace(replace(file("${path.module}/iam-restore.json"), "BUCKET/PREFIX", var.bucket), "BUCKET", var.bucket)
}

resource "aws_s3_bucket_policy" "store" {
  bucket = aws_s3_bucket.store.id
  policy = replace(replace(file("${path.module}/bucket-policy.json"), "BUCKET", var.bucket), "WRITER", aws_iam_user.writer.arn)
}
