# A storage account and container on Azure that keep every version, and a role that only adds.
# Expiry rules come from a file that `lifeboat lifecycle print > lifecycle.json` writes.

variable "resource_group" {
  type = string
}

variable "location" {
  type = string
}

variable "account" {
  type = string
}

variable "container" {
  type    = string
  default = "backups"
}

variable "writer_principal_id" {
  type        = string
  description = "Object id of the identity of the machine that backs up."
}

variable "restorer_principal_id" {
  type        = string
  description = "Object id of who restores."
}

variable "lock_days" {
  type        = number
  default     = 0
  description = "Days during which no blob can be deleted or replaced; 0 for none. Whoever owns the account can take it back until the policy is locked."
}

variable "lifecycle_file" {
  type        = string
  default     = ""
  description = "The file with the rules; empty for none, and then the container grows without end."
}

locals {
  rules = var.lifecycle_file == "" ? [] : jsondecode(file(var.lifecycle_file)).rules
}

resource "azurerm_storage_account" "store" {
  name                            = var.account
  resource_group_name             = var.resource_group
  location                        = var.location
  account_tier                    = "Standard"
  account_replication_type        = "ZRS"
  min_tls_version                 = "TLS1_2"
  allow_nested_items_to_be_public = false
  blob_properties {
    versioning_enabled = true
  }
}

resource "azurerm_storage_container" "store" {
  name               = var.container
  storage_account_id = azurerm_storage_account.store.id
}

resource "azurerm_role_definition" "writer" {
  name  = "lifeboat writer"
  scope = azurerm_storage_account.store.id
  permissions {
    data_actions = ["Microsoft.Storage/storageAccounts/blobServices/containers/blobs/add/action"]
  }
}

resource "azurerm_role_assignment" "writer" {
  scope              = azurerm_storage_account.store.id
  role_definition_id = azurerm_role_definition.writer.role_definition_resource_id
  principal_id       = var.writer_principal_id
}

resource "azurerm_role_assignment" "restorer" {
  scope                = azurerm_storage_account.store.id
  role_definition_name = "Storage Blob Data Reader"
  principal_id         = var.restorer_principal_id
}

resource "azurerm_storage_container_immutability_policy" "store" {
  count                                 = var.lock_days > 0 ? 1 : 0
  storage_container_resource_manager_id = azurerm_storage_container.store.id
  immutability_period_in_days           = var.lock_days
}

resource "azurerm_storage_management_policy" "store" {
  count              = length(local.rules) > 0 ? 1 : 0
  storage_account_id = azurerm_storage_account.store.id
  dynamic "rule" {
    for_each = local.rules
    content {
      name    = rule.value.name
      enabled = rule.value.enabled
      filters {
        blob_types   = rule.value.definition.filters.blobTypes
        prefix_match = rule.value.definition.filters.prefixMatch
      }
      actions {
        base_blob {
          delete_after_days_since_creation_greater_than = rule.value.definition.actions.baseBlob.delete.daysAfterCreationGreaterThan
        }
        version {
          delete_after_days_since_creation = rule.value.definition.actions.version.delete.daysAfterCreationGreaterThan
        }
      }
    }
  }
}
