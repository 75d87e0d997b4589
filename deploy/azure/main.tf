# A storage account and container on Azure that keep every version, and a role that only adds.
# The expiry rules are what `lifeboat lifecycle print` says; they are not made here.

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
